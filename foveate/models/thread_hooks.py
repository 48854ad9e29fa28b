"""Hooks that do something only in threads that ask, and stay on a model while a run is attached."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Self

from torch.utils.hooks import RemovableHandle

__all__ = ["ThreadHooks"]


class ThreadHooks:
    """What was hooked for one purpose; a call that needs it uses what is kept, or its own.

    A run keeps its hooks on: threads that call the model must not see hooks come and go. Hooks that
    one call put on for itself are never another's, which would lose them on the way.

    Args:
        key: what the hooks are for; the same purpose on the same model has the same key.
        handles: of the hooks.
    """

    def __init__(self, key: Hashable, handles: Iterable[RemovableHandle]) -> None:
        self._key = (type(self), key)
        self._handles = list(handles)

    def keep(self) -> Self:
        """Let every call use these until `remove`."""
        _KEPT.setdefault(self._key, self)
        return self

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
        if _KEPT.get(self._key) is self:
            del _KEPT[self._key]

    @classmethod
    @contextmanager
    def on(cls, key: Hashable, make: Callable[[], Self]) -> Iterator[Self]:
        """The kept hooks of a key, or new ones that go again after the block."""
        kept: Any = _KEPT.get((cls, key))
        hooks: Self = make() if kept is None else kept
        try:
            yield hooks
        finally:
            if kept is None:
                hooks.remove()


_KEPT: weakref.WeakValueDictionary[Hashable, ThreadHooks] = weakref.WeakValueDictionary()
