"""Layers that attend with keys and values of an earlier layer (Gemma 3n, 4, Mistral Large 4).

What an earlier layer stored may be longer than what is left of the tokens: it is cut to that, and
the mask is made for it. transformers tells in `kv_sharing_modes` which layers store and which
reuse, and hands what is stored from layer to layer in `shared_kv_states`.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from foveate.carve.engine.cache import picked_slots
from foveate.carve.engine.layer_inputs import LayerInputs
from foveate.carve.engine.left import Left
from foveate.core.layout import PAD, kept_rows, longest_row
from foveate.errors import UnsupportedModeError, UnsupportedModelError
from foveate.models.anatomy import Anatomy


@dataclass(frozen=True, eq=False)
class _Stored:
    """What a storing layer ran with: positions [B, L] of its keys, and whether any is PAD."""

    layer: int
    key_idx: Tensor
    has_empty: bool
    left: Left | None


def sharing_modes(text_config: Any) -> tuple[str, ...]:
    """Of each layer of a decoder: "store", "reuse...", or ""; () where none shares keys."""
    modes = getattr(text_config, "kv_sharing_modes", None) or ()
    return tuple(str(mode) if mode is not None else "" for mode in modes)


def reuses_keys(text_config: Any, index: int) -> bool:
    """Whether a layer attends with another layer's keys."""
    modes = sharing_modes(text_config)
    return index < len(modes) and modes[index].startswith("reuse")


class ReusedKeys:
    """The keys and values that layers of one pass take from each other.

    Args:
        anatomy: of the model.
        inputs: of the pass.
    """

    def __init__(self, anatomy: Anatomy, inputs: LayerInputs) -> None:
        self._anatomy = anatomy
        self._inputs = inputs
        self._modes = sharing_modes(anatomy.text_config)
        self._stored: dict[str, _Stored] = {}

    @property
    def is_on(self) -> bool:
        """Whether any layer reuses another's keys."""
        return any(self._modes)

    def reuses(self, index: int) -> bool:
        """Whether a layer attends with another layer's keys."""
        return reuses_keys(self._anatomy.text_config, index)

    def reused_across(self, index: int) -> bool:
        """Whether a layer from `index` on attends with keys of a layer before it."""
        stores = any(mode == "store" for mode in self._modes[:index])
        return stores and any(mode.startswith("reuse") for mode in self._modes[index:])

    def entered(
        self, index: int, key_idx: Tensor | None, has_empty: bool, left: Left | None
    ) -> None:
        """Told what a layer with keys of its own attends to.

        Args:
            index: of the layer.
            key_idx: [B, L] positions of its keys; None where it sees every token so far.
            has_empty: whether PAD may occur in them.
            left: of this pass's tokens; None for all.
        """
        if index >= len(self._modes) or self._modes[index] != "store":
            return
        if key_idx is None:
            key_idx = self._inputs.every_position()
        self._stored[self._name(index, None)] = _Stored(index, key_idx, has_empty, left)

    def agree(
        self, index: int, kwargs: dict[str, Any], left: Left | None, num_queries: int
    ) -> None:
        """Cut what layer `index` reuses to what is left, and narrow its mask to that.

        Args:
            kwargs: of the layer, changed in place.
            left: of this pass's tokens; None for all.
            num_queries: tokens that go into the layer: all that are left, or the last ones.

        Raises:
            UnsupportedModelError: it is unknown where the keys come from.
            UnsupportedModeError: the last tokens alone go into the layer, and one was dropped.
        """
        inputs, shared = self._inputs, kwargs.get("shared_kv_states")
        name = self._name(index, shared)
        stored = self._stored.get(name)
        if stored is None or shared is None or name not in shared:
            raise UnsupportedModelError(
                f"layer {index} reuses keys of an earlier layer, and foveate cannot tell which."
            )
        keys = shared[name][0]
        if keys.shape[2] != stored.key_idx.shape[1]:
            raise UnsupportedModelError(
                f"layer {index} reuses {keys.shape[2]} keys of layer {stored.layer}, which has "
                f"{stored.key_idx.shape[1]}; foveate cannot tell which tokens they belong to."
            )
        query_idx = inputs.query_idx(left.rows if left is not None else None)
        key_idx, has_empty = stored.key_idx, stored.has_empty
        if left is not None and left is not stored.left:
            slots = inputs.remember(
                ("slots", id(key_idx), id(left)),
                (key_idx, left),
                lambda: self._slots(key_idx, left),
            )
            key_idx, has_empty = self._positions(stored.key_idx, slots), True
            kept = inputs.remember(
                ("reused", id(shared[name]), id(slots)),
                (shared[name], slots),
                lambda: tuple(picked_slots(t, slots, True) for t in shared[name]),
            )
            kwargs["shared_kv_states"] = short = copy.copy(shared)
            short[name] = kept
        num_rows = inputs.length
        if num_queries < query_idx.shape[1]:  # the model itself goes on with its last tokens alone
            num_rows = num_queries
            if left is not None:
                self._check_last(index, query_idx, num_queries)
            query_idx = inputs.last(query_idx, num_queries)
        mask = kwargs.get("attention_mask")
        kwargs["attention_mask"] = inputs.mask(mask, query_idx, key_idx, has_empty, num_rows)

    def _name(self, index: int, shared: Any) -> str:
        """Under which name a layer stores or finds its keys."""
        attention = self._anatomy.attention_of(index)
        kind = getattr(attention, "layer_type", None)
        if kind is None and hasattr(attention, "use_rope"):
            kind = "rope" if attention.use_rope else "nope"  # type: ignore[union-attr]
        if kind is None:
            raise UnsupportedModelError(
                f"layer {index} shares keys with others, and foveate cannot tell with which."
            )
        return str(kind)

    def _slots(self, key_idx: Tensor, left: Left) -> Tensor:
        """[B, L'] which of the stored keys are of tokens that are left, or older than this pass."""
        past, keep = self._inputs.past, left.keep_mask.to(key_idx.device)
        is_old = (key_idx != PAD) & (key_idx < past)
        is_kept = keep.gather(1, (key_idx - past).clamp_min(0)) & (key_idx >= past)
        stays = is_old | is_kept
        return kept_rows(stays, longest_row(stays))

    def _positions(self, key_idx: Tensor, slots: Tensor) -> Tensor:
        def build() -> Tensor:
            return key_idx.gather(1, slots.clamp_min(0)).masked_fill(slots == PAD, PAD)

        positions: Tensor = self._inputs.remember(
            ("positions of keys", id(key_idx), id(slots)), (key_idx, slots), build
        )
        return positions

    def _check_last(self, index: int, query_idx: Tensor, num_queries: int) -> None:
        """The model itself cut rotary tables to the last tokens: they must be the last left."""
        end = self._inputs.past + self._inputs.length
        last = torch.arange(end - num_queries, end, device=query_idx.device)
        is_same = self._inputs.remember(
            ("is last", id(query_idx), num_queries),
            query_idx,
            lambda: bool((query_idx[:, -num_queries:] == last).all()),
        )
        if not is_same:
            raise UnsupportedModeError(
                f"the prompt ends in visual tokens of which some are dropped, and layer {index} "
                f"runs on its last {num_queries} tokens only; put text behind the image."
            )
