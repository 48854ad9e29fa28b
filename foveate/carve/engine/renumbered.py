"""Renumbered positions: what is left of a prompt closes ranks, as if the dropped never were."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from foveate.carve.engine.cache import CarvedLayer
from foveate.carve.engine.layer_inputs import LayerInputs
from foveate.carve.engine.left import Left
from foveate.carve.method import Step
from foveate.errors import MethodError, UnsupportedModeError
from foveate.models.anatomy import Anatomy


def renumbers(steps: Sequence[Step], anatomy: Anatomy) -> bool:
    """Whether the steps want positions renumbered.

    Raises:
        MethodError: some do and some do not, or the model's positions have more than one dimension.
    """
    wanted = {step.method.positions for step in steps}
    if len(wanted) > 1:
        raise MethodError(
            "one method of the stack keeps original positions, another renumbers them; "
            "set positions= the same in both."
        )
    if wanted != {"renumbered"}:
        return False
    rotary: Any = getattr(anatomy.decoder, "rotary_emb", None)
    rope = getattr(anatomy.text_config, "rope_parameters", None) or {}
    is_plain = rotary is not None and list(inspect.signature(rotary.forward).parameters) == [
        "x",
        "position_ids",
    ]
    if not is_plain or "mrope_section" in rope:
        raise MethodError(
            f"positions='renumbered' needs one-dimensional rotary positions, and "
            f"{anatomy.family.title} has others; use positions='original'."
        )
    return True


class Renumbering:
    """How far the tokens of one pass move up.

    Args:
        anatomy: of the model.
        is_on: whether what this pass drops makes the rest move up. A cache from another run may
            have closed ranks before; its later tokens stay as close as it had them.
        inputs: of the pass.
    """

    def __init__(self, anatomy: Anatomy, inputs: LayerInputs, *, is_on: bool) -> None:
        self._anatomy = anatomy
        self._inputs = inputs
        self._is_on = is_on
        self._dropped: dict[int, tuple[CarvedLayer, Tensor]] = {}

    def shift(self, index: int, layer: CarvedLayer | None, left: Left | None) -> Tensor | None:
        """How far each query of a layer moves up, [B, Q] or [B, 1]; None where positions stay.

        Args:
            index: of the layer.
            layer: of the cache, if that is carved.
            left: of this pass's tokens; None for all.
        """
        device = self._inputs.device
        earlier = layer.shift if layer is not None else None
        shift = earlier[:, None].to(device) if earlier is not None else None
        if left is None or not self._is_on:
            return shift
        gone, rows = left.gone, left.rows

        def build() -> Tensor:
            before = gone.long().cumsum(dim=-1).gather(1, rows.clamp_min(0).to(gone.device))
            return before.to(device)

        if layer is not None:
            self._dropped[index] = (layer, gone.sum(dim=-1))
        new: Tensor = self._inputs.remember(("shift", id(rows)), rows, build)
        return new if shift is None else shift + new

    def apply(self, hidden: Tensor, kwargs: dict[str, Any], shift: Tensor) -> None:
        """Give a layer rotary tables for positions that are lower by `shift` [B, Q or 1]."""
        position_ids = kwargs.get("position_ids")
        if position_ids is None or position_ids.ndim != 2:
            raise UnsupportedModeError(
                "positions='renumbered' needs one-dimensional position_ids in the decoder layers; "
                "use positions='original'."
            )
        moved = self._inputs.remember(
            ("moved", id(position_ids), id(shift)),
            (position_ids, shift),
            lambda: position_ids - shift.to(position_ids.device),
        )
        kwargs["position_embeddings"] = self._inputs.remember(
            ("moved rotary", id(moved)),
            moved,
            lambda: self._anatomy.decoder.rotary_emb(hidden, moved),
        )
        kwargs["position_ids"] = moved

    def finish(self) -> None:
        """After the last layer: later tokens are as far from their places as the last of these."""
        for layer, dropped in self._dropped.values():
            layer.shift = dropped if layer.shift is None else layer.shift + dropped
