"""CPU time of a forward pass, and how much of it was outside what every forward pass does.

Inside are the model's own MLPs, its other leaf modules (projections, norms, embeddings) and the
attention kernel: a model without any compression spends nearly all its time in them. Outside is
everything else: reading attention, choosing, merging, gathering, reporting, and the glue of the
model's code, which a bare cut has as well. So `outside(method) - outside(bare cut)` is what a
method adds, to whichever project it belongs.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

CLOCK = time.thread_time


class InsideClock:
    """Seconds in a model's MLPs and leaf modules, and in its attention kernel."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.seconds = 0.0
        self._begun: list[float] = []
        for module in model.modules():
            is_whole = type(module).__name__.endswith("MLP")
            if is_whole or next(module.children(), None) is None:
                module.register_forward_pre_hook(self._enter)
                module.register_forward_hook(self._leave)
        self._kernel = ALL_ATTENTION_FUNCTIONS["sdpa"]

    def _enter(self, *_: object) -> None:
        self._begun.append(CLOCK())

    def _leave(self, *_: object) -> None:
        begun = self._begun.pop()
        if not self._begun:  # of a module inside another one, the outer one counts
            self.seconds += CLOCK() - begun

    def _attend(self, *args: Any, **kwargs: Any) -> Any:
        self._enter()
        out = self._kernel(*args, **kwargs)
        self._leave()
        return out

    def time(self, model: Any, inputs: dict[str, Any]) -> tuple[float, float, Any]:
        """One forward pass: seconds in all, seconds outside, and the output."""
        self.seconds = 0.0
        ALL_ATTENTION_FUNCTIONS["sdpa"] = self._attend
        try:
            begun = CLOCK()
            with torch.no_grad():
                out = model(**inputs)
            total = CLOCK() - begun
        finally:
            ALL_ATTENTION_FUNCTIONS["sdpa"] = self._kernel
        return total, total - self.seconds, out


@contextmanager
def bare_cut(layers: Sequence[torch.nn.Module], cut: int, rows: Tensor) -> Iterator[None]:
    """Only `rows` [L] of the sequence go on from layer `cut`: a cut that nobody had to choose."""
    tables: list[Any] = []

    def shorten(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if module is layers[cut]:
            tables[:] = [tuple(table[:, rows] for table in kwargs["position_embeddings"])]
            args = (args[0][:, rows], *args[1:])
        return args, {**kwargs, "position_embeddings": tables[0]}

    handles = [layer.register_forward_pre_hook(shorten, with_kwargs=True) for layer in layers[cut:]]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
