"""A KV cache layer that stores carved tokens and answers in uncompressed length.

transformers derives positions and masks from the length the cache reports. A carved layer keeps
short K and V, remembers each slot's original position, and reports the length as if nothing was
dropped; the layer hooks then pick the mask columns of the slots that exist.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from transformers.cache_utils import DynamicLayer

from foveate.carve.engine.held_rows import HeldRows
from foveate.errors import CarvedCacheError, UnsupportedModeError

# (tokens so far, how many of the last are held) -> their rows
SameRows = Callable[[int, int], HeldRows]


class CarvedLayer(DynamicLayer):
    """Short K/V [B, H, L, D] with the original position of every slot.

    Attributes:
        rows: which tokens the slots hold; one object for all layers that hold the same.
        seen: uncompressed length.
        shift: [B] int64, how much lower than original the positions of later tokens are; None where
            positions are original.
    """

    def __init__(self, sliding_window: int | None = None) -> None:
        super().__init__()
        self.sliding_window = sliding_window
        self.is_sliding = sliding_window is not None
        self.rows: HeldRows | None = None
        self.seen = 0
        self.shift: Tensor | None = None
        self._staged: tuple[HeldRows, int, int] | None = None
        self._records_past = False
        self._gone_below = 0  # a sliding layer has forgotten tokens before this position

    @classmethod
    def of(cls, layer: DynamicLayer, same: SameRows) -> CarvedLayer:
        """Take over a plain dynamic layer with all it holds.

        Args:
            layer: of the cache.
            same: gives the rows of layers that hold as much.
        """
        carved = cls(getattr(layer, "sliding_window", None))
        carved._records_past = getattr(layer, "record_past", False)
        held = 0
        if layer.is_initialized and layer.keys is not None and layer.keys.numel():
            carved.lazy_initialization(layer.keys, layer.values)
            carved.keys, carved.values = layer.keys, layer.values
            carved.seen = layer.get_seq_length()
            held = carved.keys.shape[-2]
            carved._gone_below = carved.seen - held
        carved.rows = same(carved.seen, held)
        carved._take_more(layer, same)
        return carved

    @property
    def index(self) -> Tensor:
        """[B, L] original positions, see `HeldRows`."""
        assert self.rows is not None
        return self.rows.index

    def _take_more(self, layer: DynamicLayer, same: SameRows) -> None:
        """What else a kind of layer holds, taken over with the keys and values."""

    def activate_past_recording(self) -> None:
        """Assisted decoding will crop: keep slots that slid out of the window."""
        self._records_past = True

    def stage(self, rows: HeldRows, num_new: int, seen: int) -> None:
        """Announce the next update.

        Args:
            rows: of all slots after it.
            num_new: slots about to come.
            seen: uncompressed length after it.
        """
        self._staged = (rows, num_new, seen)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        rows, seen = self._announced(key_states.shape[-2])
        keys, values = super().update(key_states, value_states)
        self.rows, self.seen = rows, seen
        if self.is_sliding and not self._records_past:
            self._trim()
        return keys, values

    def _announced(self, num_new: int) -> tuple[HeldRows, int]:
        """Rows and the uncompressed length after an update by `num_new` slots."""
        if self._staged is None:
            raise CarvedCacheError(
                "this KV cache was carved by foveate, and the model is running without the hooks "
                "that keep its positions right; attach again (run.attach(), or "
                "foveate.attach(model, method)) before continuing with it, or start from an "
                "empty cache."
            )
        rows, announced, seen = self._staged
        self._staged = None
        if announced != num_new:
            raise CarvedCacheError(
                f"{num_new} new tokens reached the cache, {announced} were "
                "announced; do not call decoder layers of an attached model by hand."
            )
        return rows, seen

    def _trim(self) -> None:
        """Forget leading slots that every row's next query will be too far from.

        As far as the host can tell by counting, so that decoding waits for nothing: a slot may stay
        longer than it is seen, behind the mask, but never more slots than the window has.
        """
        assert self.rows is not None
        assert self.sliding_window is not None
        first = self.seen - self.sliding_window + 1
        num_old = self.rows.num_before(first)
        if num_old:
            self._gone_below = max(self._gone_below, first)
            self._forget_first(num_old)

    def _forget_first(self, count: int) -> None:
        """Forget the first slots of every row."""
        assert self.rows is not None
        self.rows = self.rows.without_first(count)
        self.keys, self.values = self.keys[:, :, count:], self.values[:, :, count:]

    def retain(self, slots: Tensor, *, has_empty: bool, index: Tensor | None = None) -> None:
        """Keep `slots` [B, L'] of each row, ascending; PADs, which are first, make empty slots.

        Args:
            slots: the same object for layers that hold the same rows.
            has_empty: whether PAD may occur in them.
            index: [B, L'] their positions, where these are known already.
        """
        assert self.rows is not None
        slots = slots.to(self.index.device)
        self.rows = self.rows.retained(slots, has_empty, self.seen, index)
        if self.keys is None:  # the layer attends with another one's keys
            return
        self.keys, self.values = (
            picked_slots(states, slots, has_empty) for states in (self.keys, self.values)
        )

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
        if tokens_to_remove == 0 or self.rows is None:
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
        slots, has_empty = self.rows.slots_before(seen)
        self.retain(slots, has_empty=has_empty)

    def reset(self) -> None:
        super().reset()
        self.rows, self.seen, self._staged, self.shift = None, 0, None, None
        self._gone_below = 0

    def reorder_cache(self, beam_idx: Tensor) -> None:
        super().reorder_cache(beam_idx)
        self._reorder(beam_idx, lambda t: t.index_select(0, beam_idx.to(t.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)
        self._reorder(("repeated", repeats), lambda t: t.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)
        self._reorder(indices, lambda t: t[indices, ...])

    def _reorder(self, cause: object, change: Callable[[Tensor], Tensor]) -> None:
        assert self.rows is not None
        self.rows = self.rows.reordered(cause, change)
        if self.shift is not None:
            self.shift = change(self.shift)


def picked_slots(states: Tensor, slots: Tensor, has_empty: bool) -> Tensor:
    """Slots [B, L'] of keys or values [B, H, L, D]; PAD takes slot 0. [B, H, L', D]"""
    pick = (slots.clamp_min(0) if has_empty else slots).to(states.device)
    if len(pick) == 1:  # whole rows are copied at once
        return states.index_select(2, pick[0])
    wide = pick[:, None, :, None].expand(-1, states.shape[1], -1, states.shape[3])
    return states.gather(2, wide)
