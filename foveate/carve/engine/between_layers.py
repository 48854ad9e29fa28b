"""Whether each decoder layer gets what the one before gave: a model may add features in between."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from foveate.carve.engine.residual_streams import ResidualStreams


class BetweenLayers:
    """Compares a layer's input with the output of the layer before, in one pass.

    Costs nothing where they are one object, as in a decoder that only runs its layers.

    Args:
        first_layer: before which the family may add features (deepstack): not looked at.

    Attributes:
        changed: layers whose input was not the output of the one before.
    """

    def __init__(self, first_layer: int) -> None:
        self._first_layer = first_layer
        self._before: Any = None
        self.changed: list[int] = []

    def left_layer(self, output: Any) -> None:
        """Told of what a layer gave."""
        self._before = output[0] if isinstance(output, tuple) else output

    def enter_layer(self, index: int, hidden: Tensor, streams: ResidualStreams) -> None:
        """Told of what a layer is given."""
        before, self._before = self._before, None
        if index <= self._first_layer or before is None or hidden is before:
            return
        if not _is_same(hidden, before, streams):
            self.changed.append(index)


def _is_same(hidden: Tensor, before: Any, streams: ResidualStreams) -> bool:
    if not isinstance(before, Tensor) or before.ndim != hidden.ndim:
        return False
    before = streams.joined(before).to(hidden.device)
    hidden = streams.joined(hidden)
    # A decoder may go on with the last tokens alone, as Gemma 4 does where keys are reused.
    before = before[:, -hidden.shape[1] :]
    if before.shape != hidden.shape:
        return False
    return bool(((before == hidden) | ((before != before) & (hidden != hidden))).all())
