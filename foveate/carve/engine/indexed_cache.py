"""A carved cache layer of sparse attention, whose indexer keeps one more key for every token."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from foveate.carve.engine.cache import CarvedLayer, SameRows
from foveate.errors import UnsupportedModeError


class CarvedIndexedLayer(CarvedLayer):
    """Short K/V, and the indexer's keys [B, L, D] of the same slots.

    A layer that reuses another layer's keys and values may hold indexer keys alone.
    """

    def __init__(self, sliding_window: int | None = None) -> None:
        super().__init__(sliding_window)
        self.indexer_keys: Tensor | None = None

    @property
    def indexer_position_ids(self) -> None:
        """Positions of the indexer's keys: none, each slot's own holds."""

    @indexer_position_ids.setter
    def indexer_position_ids(self, value: object) -> None:
        _refuse_own_positions(value)

    def _take_more(self, layer: DynamicLayer, same: SameRows) -> None:
        _refuse_own_positions(getattr(layer, "indexer_position_ids", None))
        keys: Tensor | None = getattr(layer, "indexer_keys", None)
        if keys is None or not keys.numel():
            return
        self.indexer_keys = keys
        if self.keys is None:
            self.seen = keys.shape[1]
            self.rows = same(self.seen, self.seen)
        elif keys.shape[1] != self.keys.shape[-2]:
            raise UnsupportedModeError(
                f"the indexer's cache holds {keys.shape[1]} keys for {self.keys.shape[-2]} tokens; "
                "foveate can only drop tokens where each has one."
            )

    def update_indexer(self, indexer_key_states: Tensor) -> Tensor:
        """Append [B, Q, D]; returns [B, L + Q, D].

        The attention's own update comes first and takes what was announced, unless the layer has
        no keys of its own.
        """
        if self._staged is not None:
            self.rows, self.seen = self._announced(indexer_key_states.shape[1])
        held = self.indexer_keys
        self.indexer_keys = (
            indexer_key_states if held is None else torch.cat([held, indexer_key_states], dim=1)
        )
        return self.indexer_keys

    def retain(self, slots: Tensor, *, has_empty: bool, index: Tensor | None = None) -> None:
        super().retain(slots, has_empty=has_empty, index=index)
        if self.indexer_keys is not None:
            pick = slots.clamp_min(0).to(self.indexer_keys.device)[..., None]
            width = self.indexer_keys.shape[-1]
            self.indexer_keys = self.indexer_keys.gather(1, pick.expand(-1, -1, width))

    def _forget_first(self, count: int) -> None:
        super()._forget_first(count)
        if self.indexer_keys is not None:
            self.indexer_keys = self.indexer_keys[:, count:]

    def reset(self) -> None:
        super().reset()
        self.indexer_keys = None

    def reorder_cache(self, beam_idx: Tensor) -> None:
        super().reorder_cache(beam_idx)
        if self.indexer_keys is not None:
            order = beam_idx.to(self.indexer_keys.device)
            self.indexer_keys = self.indexer_keys.index_select(0, order)

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)
        if self.indexer_keys is not None:
            self.indexer_keys = self.indexer_keys.repeat_interleave(repeats, dim=0)

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)
        if self.indexer_keys is not None:
            self.indexer_keys = self.indexer_keys[indices, ...]


def _refuse_own_positions(value: object) -> None:
    if value is not None:
        raise UnsupportedModeError(
            "this model's indexer keeps positions of its own beside its keys, because they stand "
            "for several tokens each; foveate cannot drop single tokens there."
        )
