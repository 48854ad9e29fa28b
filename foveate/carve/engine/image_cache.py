"""Encode the images of a batch once, however many methods then answer from them."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from foveate.carve.method import Method
from foveate.models.anatomy import MODALITIES, anatomy_of

__all__ = ["ImageCache", "needs_the_tower"]


def needs_the_tower(method: Method) -> bool:
    """Whether a method acts in the vision tower or looks into it, so that it has to run.

    Methods that only see the tower's output, before or in the language model, may be given a kept
    one.
    """
    return any(
        member.where not in ("encoder", "llm")
        or any(need.startswith("vision") for need in member.needs)
        for member in method.members
    )


class ImageCache:
    """What a model's own feature extractors returned for the inputs they last saw.

    Equal inputs get the kept output instead of another run of the vision tower: the same tensors,
    so answers are bitwise the same. One batch is held; another one replaces it.

    Example:
        cache = ImageCache(vlm.model)
        for method in methods:
            with cache.in_use(), foveate.attach(vlm.model, method):
                answers = vlm.answer(inputs)
    """

    def __init__(self, model: nn.Module) -> None:
        self._base = anatomy_of(model, with_explicit_mask=False).extractor
        self._kept: dict[str, tuple[dict[str, Any], Any]] = {}
        self.num_encoded = 0

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Answer from what is kept; enter it before a run is attached, leave it after."""
        # On the instance, never on the class. A Run wraps what it finds here and, when it is
        # detached, takes both away; hence once for every run.
        names = [f"get_{modality}_features" for modality in MODALITIES]
        names = [name for name in names if hasattr(self._base, name)]
        before = {name: self._base.__dict__.get(name) for name in names}
        for name in names:
            self._base.__dict__[name] = self._keeping(name, getattr(self._base, name))
        try:
            yield
        finally:
            for name, own in before.items():
                self._base.__dict__.pop(name, None)
                if own is not None:
                    self._base.__dict__[name] = own

    def clear(self) -> None:
        """Forget, to free memory."""
        self._kept.clear()

    def _keeping(self, name: str, encode: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(encode)

        @functools.wraps(encode)  # generate reads the signature
        def kept(*args: Any, **kwargs: Any) -> Any:
            inputs = dict(signature.bind_partial(*args, **kwargs).arguments)
            held = self._kept.get(name)
            if held is None or not _equal(held[0], inputs):
                self.num_encoded += 1
                held = self._kept[name] = (inputs, encode(*args, **kwargs))
            # transformers fills in fields of what it gets, e.g. to repeat images for beams.
            return copy.copy(held[1])

        return kept


def _equal(a: Any, b: Any) -> bool:
    """Same type and same values, through containers."""
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return a.shape == b.shape and a.dtype == b.dtype and bool(torch.equal(a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(_equal(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)
