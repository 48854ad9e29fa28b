"""Scores in full precision, whatever precision the caller lets the model compute in."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_LOCK = threading.Lock()
_NUM_INSIDE = 0
_BEFORE: list[str] = []
# Where torch keeps the precision of float32 products, as far as this version has it.
_SWITCHES: list[Any] = [
    switch
    for switch in (
        getattr(torch.backends.cuda, "matmul", None),
        getattr(getattr(torch.backends, "mkldnn", None), "matmul", None),
    )
    if hasattr(switch, "fp32_precision")
]


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Float32 products are float32 products: no autocast, no TF32, no bfloat16 behind float32.

    What is kept follows from comparisons of scores, and one rounded product turns them. Autocast is
    a thread's own; the other switches belong to the process, so they are off as long as any thread
    is in here (others then compute more precisely than they asked for).

    Args:
        device: of the tensors.
    """
    _enter()
    try:
        if not torch.is_autocast_enabled(device.type):
            yield
            return
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        _leave()


def _enter() -> None:
    global _NUM_INSIDE
    with _LOCK:
        _NUM_INSIDE += 1
        if _NUM_INSIDE == 1:
            _BEFORE[:] = [switch.fp32_precision for switch in _SWITCHES]
            for switch, before in zip(_SWITCHES, _BEFORE, strict=True):
                if before != "ieee":
                    switch.fp32_precision = "ieee"


def _leave() -> None:
    global _NUM_INSIDE
    with _LOCK:
        _NUM_INSIDE -= 1
        if _NUM_INSIDE == 0:
            for switch, before in zip(_SWITCHES, _BEFORE, strict=True):
                switch.fp32_precision = before
