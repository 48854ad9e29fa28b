"""An attention module that is run for its keys and one query computes little else."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from foveate.models.hook import hook_after, hook_before

_SPARED = ("q_proj", "v_proj")


class OneQuery:
    """Spares an attention module the queries and values of all rows but the last, while asked to.

    Each row of a projection is by itself, so the last row's query is what it was. In the others'
    places stand copies of it: whoever asks must read the keys and that query alone. A module whose
    projections are in one, or have other names, computes them all.

    Args:
        attention: module of a decoder layer.
        layer: that it is part of.

    Attributes:
        share: of the layer's weights that a row without a query passes.
    """

    def __init__(self, attention: nn.Module, layer: nn.Module) -> None:
        self._here = _Here()
        spared = [child for name in _SPARED if (child := getattr(attention, name, None))]
        self._handles = [
            handle
            for child in spared
            for handle in (hook_before(child, self._narrow), hook_after(child, self._widen))
        ]
        own = _num_weights(attention)
        of_others = sum(map(_num_weights, (*spared, getattr(attention, "o_proj", None))))
        # Of several experts a token passes some only; without any the share is rather too large.
        experts = sum(_num_weights(m) for m in layer.modules() if isinstance(m, nn.ModuleList))
        self.share = min(1.0, (own - of_others) / max(1, _num_weights(layer) - experts))

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()

    @contextmanager
    def asked(self, batch: int, length: int) -> Generator[None]:
        """In here, and in this thread, the last of `length` rows alone has a query."""
        self._here.size = (batch, length)
        try:
            yield
        finally:
            self._here.size = None

    def _narrow(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        if self._here.size is None or not args or args[0].shape[:-1] != self._here.size:
            return None
        return (args[0][:, -1:], *args[1:]), kwargs

    def _widen(self, module: nn.Module, args: Any, output: Tensor) -> Tensor | None:
        size = self._here.size
        if size is None or output.shape[:-1] != (size[0], 1):
            return None
        return output.expand(-1, size[1], -1)


class _Here(threading.local):
    size: tuple[int, int] | None = None


def _num_weights(module: nn.Module | None) -> int:
    """Entries of its matrices."""
    if module is None:
        return 0
    return sum(weight.numel() for weight in module.parameters() if weight.ndim == 2)
