"""The LoRA of an embedding prefix, on the decoder's linear maps while a thread reads latents."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from foveate.models.anatomy import Anatomy
from foveate.models.hook import hook_after
from foveate.models.thread_hooks import ThreadHooks
from foveate.vist.fusion.kv_prefix import Lora


class _On(threading.local):
    """Whether it is added in this thread now, and to which rows [B, T]; None is all."""

    value: bool = False
    rows: Tensor | None = None


class LoraHooks(ThreadHooks):
    """Hooks that add the LoRA in the threads that ask for it (`lora_on`), and nowhere else.

    Args:
        anatomy: of the decoder.
        lora: what is added.
    """

    def __init__(self, anatomy: Anatomy, lora: Lora) -> None:
        self.here = _On()
        self._lora = lora
        super().__init__(
            _key(anatomy, lora),
            [
                hook_after(
                    anatomy.layers[i].get_submodule(target), functools.partial(self._add, i, target)
                )
                for i, target in lora.targets
            ],
        )

    def _add(
        self, layer: int, target: str, module: nn.Module, args: Any, output: Tensor
    ) -> Tensor | None:
        if not self.here.value:
            return None
        raised = output + self._lora.delta(layer, target, args[0]).to(output.dtype)
        rows = self.here.rows
        return raised if rows is None else torch.where(rows.unsqueeze(-1), raised, output)


def _key(anatomy: Anatomy, lora: Lora) -> tuple[int, int]:
    return id(anatomy.decoder), id(lora)


@contextmanager
def lora_on(anatomy: Anatomy, lora: Lora | None, rows: Tensor | None = None) -> Iterator[None]:
    """Add the LoRA to the decoder's linear maps inside the block, in this thread.

    Args:
        anatomy: of the decoder.
        lora: what is added; None adds nothing.
        rows: [B, T] bool of the call inside, True = gets it; None is all.
    """
    if lora is None:
        yield
        return
    with LoraHooks.on(_key(anatomy, lora), lambda: LoraHooks(anatomy, lora)) as hooks:
        hooks.here.value, hooks.here.rows = True, rows
        try:
            yield
        finally:
            hooks.here.value, hooks.here.rows = False, None
