"""A KV cache layer that stores carved tokens and answers in uncompressed length.

transformers derives positions and masks from the length the cache reports. A carved layer keeps
short K and V, remembers each slot's original position, and reports the length as if nothing was
dropped; the layer hooks then pick the mask columns of the slots that exist.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from foveate.core.layout import PAD, kept_rows
from foveate.errors import CarvedCacheError, UnsupportedModeError


class CarvedLayer(DynamicLayer):
    """Short K/V [B, H, L, D] with the original position of every slot.

    Attributes:
        index: [B, L] int64, original position of each slot, PAD where a row has no token.
        seen: uncompressed length.
        has_empty: whether PAD may occur in `index`, so that nobody has to look.
        shift: [B] int64, how much lower than original the positions of later tokens are; None where
            positions are original.
    """

    def __init__(self, sliding_window: int | None = None) -> None:
        super().__init__()
        self.sliding_window = sliding_window
        self.is_sliding = sliding_window is not None
        self.index: Tensor | None = None
        self.seen = 0
        self.has_empty = False
        self.shift: Tensor | None = None
        self._staged: tuple[Tensor, Tensor, int] | None = None
        self._records_past = False
        self._gone_below = 0  # a sliding layer has forgotten tokens before this position

    @classmethod
    def of(cls, layer: DynamicLayer, batch: int, device: torch.device) -> CarvedLayer:
        """Take over a plain dynamic layer with all it holds."""
        carved = cls(getattr(layer, "sliding_window", None))
        carved._records_past = getattr(layer, "record_past", False)
        if layer.is_initialized and layer.keys is not None and layer.keys.numel():
            carved.lazy_initialization(layer.keys, layer.values)
            carved.keys, carved.values = layer.keys, layer.values
            carved.seen = layer.get_seq_length()
            held = carved.keys.shape[-2]
            carved._gone_below = carved.seen - held
            batch, device = carved.keys.shape[0], carved.keys.device
            carved.index = torch.arange(carved.seen - held, carved.seen, device=device)
            carved.index = carved.index.expand(batch, -1)
        else:
            carved.index = torch.empty(batch, 0, dtype=torch.long, device=device)
        carved._take_more(layer)
        return carved

    def _take_more(self, layer: DynamicLayer) -> None:
        """What else a kind of layer holds, taken over with the keys and values."""

    def activate_past_recording(self) -> None:
        """Assisted decoding will crop: keep slots that slid out of the window."""
        self._records_past = True

    def stage(self, index: Tensor, new_index: Tensor, seen: int) -> None:
        """Announce the next update.

        Args:
            index: [B, L + Q], positions of all slots after it.
            new_index: [B, Q], positions of the Q slots about to come.
            seen: uncompressed length after it.
        """
        self._staged = (index, new_index, seen)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        index, seen = self._announced(key_states.shape[-2])
        keys, values = super().update(key_states, value_states)
        self.index, self.seen = index, seen
        if self.is_sliding and not self._records_past:
            self._trim()
        return keys, values

    def _announced(self, num_new: int) -> tuple[Tensor, int]:
        """Positions of all slots and the uncompressed length after an update by `num_new` slots."""
        if self._staged is None:
            raise CarvedCacheError(
                "this KV cache was carved by foveate, and the model is running without the hooks "
                "that keep its positions right; attach again (run.attach(), or "
                "foveate.attach(model, method)) before continuing with it, or start from an "
                "empty cache."
            )
        index, new_index, seen = self._staged
        self._staged = None
        if new_index.shape[1] != num_new:
            raise CarvedCacheError(
                f"{num_new} new tokens reached the cache, {new_index.shape[1]} were "
                "announced; do not call decoder layers of an attached model by hand."
            )
        return index, seen

    def _trim(self) -> None:
        """Forget leading slots that every row's next query will be too far from."""
        too_old = (self.index <= self.seen - self.sliding_window).all(dim=0)
        num_old = int((~too_old).to(torch.uint8).argmax()) if not bool(too_old.all()) else 0
        if num_old:
            self._gone_below = max(self._gone_below, int(self.index[:, :num_old].max()) + 1)
            self._select(torch.arange(num_old, too_old.numel(), device=too_old.device))

    def _select(self, slots: Tensor) -> None:
        """Keep `slots` [L'] of every row."""
        self.index = self.index[:, slots]
        self.keys, self.values = self.keys[:, :, slots], self.values[:, :, slots]

    def retain(self, slots: Tensor) -> None:
        """Keep `slots` [B, L'] of each row, in that order; PAD makes an empty slot."""
        slots = slots.to(self.index.device)
        self.has_empty |= bool((slots == PAD).any())
        pick = slots.clamp_min(0)
        self.index = self.index.gather(1, pick).masked_fill(slots == PAD, PAD)
        if self.keys is None:  # the layer attends with another one's keys
            return
        wide = pick[:, None, :, None].to(self.keys.device)
        heads, key_dim = self.keys.shape[1], self.keys.shape[3]
        self.keys = self.keys.gather(2, wide.expand(-1, heads, -1, key_dim))
        self.values = self.values.gather(2, wide.expand(-1, heads, -1, self.values.shape[3]))

    def get_seq_length(self) -> int:
        """Uncompressed length: what positions and masks are computed from."""
        return self.seen if self.keys is not None else 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Masks are made for the uncompressed length; the layer hooks pick the columns."""
        return self.seen + query_length, 0

    def get_max_length(self) -> int:
        return self.sliding_window if self.sliding_window is not None else -1

    def crop(self, tokens_to_remove: int) -> None:
        """Remove the last tokens, counted in uncompressed positions (negative count, or 0).

        Raises:
            ValueError: a positive count.
            UnsupportedModeError: the window of what comes next has slid over tokens that are gone.
        """
        if tokens_to_remove > 0:
            raise ValueError(
                f"crop({tokens_to_remove}): pass the negative number of tokens to remove."
            )
        if tokens_to_remove == 0 or self.index is None:
            return
        seen = self.seen + tokens_to_remove
        if self.sliding_window is not None and seen - self.sliding_window + 1 < self._gone_below:
            raise UnsupportedModeError(
                f"crop({tokens_to_remove}) goes back to a sliding window of {self.sliding_window} "
                "tokens whose first ones this KV cache has forgotten; call "
                "activate_past_recording() on it before they slide out, or start from an empty "
                "cache."
            )
        self.seen = seen
        stays = (self.index != PAD) & (self.index < self.seen)  # [B, L]
        self.retain(kept_rows(stays))

    def reset(self) -> None:
        super().reset()
        self.index, self.seen, self._staged, self.shift = None, 0, None, None
        self._gone_below = 0

    def reorder_cache(self, beam_idx: Tensor) -> None:
        super().reorder_cache(beam_idx)
        self.index = self.index.index_select(0, beam_idx.to(self.index.device))
        if self.shift is not None:
            self.shift = self.shift.index_select(0, beam_idx.to(self.shift.device))

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)
        self.index = self.index.repeat_interleave(repeats, dim=0)
        if self.shift is not None:
            self.shift = self.shift.repeat_interleave(repeats, dim=0)

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)
        self.index = self.index[indices, ...]
        if self.shift is not None:
            self.shift = self.shift[indices]
