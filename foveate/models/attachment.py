"""What is attached to a model: one thing at a time, put on by hooks, taken off without a trace."""

from __future__ import annotations

import functools
import inspect
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar

from torch import nn
from typing_extensions import Self

from foveate.errors import AttachError
from foveate.models.anatomy import Anatomy
from foveate.models.hook import WrappedMethod

# The base model itself holds what is attached to it, so that both are freed together: a registry
# beside it would keep the model alive, because an attachment knows its model.
_PLACE = "_foveate_attachment"


class Part(Protocol):
    """What can be taken off again: a hook's handle, a recorder, a wrapped method."""

    def remove(self) -> None: ...


P = TypeVar("P", bound=Part)
R = TypeVar("R")

MOST_REPORTS = 1000  # kept by a run; a server that runs for months must not grow


class _LastReport(threading.local, Generic[R]):
    """Of a thread."""

    report: R | None = None


class Attachment(ABC, Generic[R]):
    """Base of what runs on an unmodified model until it is detached; a context manager.

    A subclass puts its parts on in `_install`, each through `_put_on` or `_wrap`, and gives up its
    state of calls in `_forget`.

    Args:
        anatomy: of the model.

    Attributes:
        reports: of the prompts of all threads, oldest first; the last MOST_REPORTS of them.
    """

    def __init__(self, anatomy: Anatomy) -> None:
        self._anatomy = anatomy
        self.reports: list[R] = []
        self._last = _LastReport[R]()
        self._parts: list[Part] = []

    @property
    @abstractmethod
    def label(self) -> str:
        """What messages call it: "the model already runs ..."."""

    @property
    def attached(self) -> bool:
        """Whether it is on the model now."""
        return attached_to(self._anatomy.base) is self

    @property
    def report(self) -> R | None:
        """What this thread's last prompt did, or anybody's where it had none yet."""
        if self._last.report is not None:
            return self._last.report
        return self.reports[-1] if self.reports else None

    def _add_report(self, report: R) -> None:
        """Remember what a prompt of this thread did."""
        self._last.report = report
        self.reports.append(report)
        del self.reports[:-MOST_REPORTS]

    def attach(self) -> Self:
        """Put the hooks on (again).

        Raises:
            AttachError: the model has something attached already.
        """
        base = self._anatomy.base
        running = attached_to(base)
        if running is not None:
            raise AttachError(f"the model already runs {running.label}; detach that run first.")
        base.__dict__[_PLACE] = self
        try:
            self._install()
        except BaseException:
            self.detach()
            raise
        return self

    def detach(self) -> None:
        """Restore the model exactly. Harmless if already detached."""
        while self._parts:
            self._parts.pop().remove()
        self._forget()
        if self.attached:
            del self._anatomy.base.__dict__[_PLACE]

    def __enter__(self) -> Self:
        if not self.attached:
            self.attach()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.detach()

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        """A copy of a model has nothing attached."""

    @abstractmethod
    def _install(self) -> None:
        """Put every part on; what was put on before an exception is taken off again."""

    @abstractmethod
    def _forget(self) -> None:
        """Give up what was learnt of the calls so far; reports stay."""

    def _put_on(self, part: P) -> P:
        """Remember a part that was just put on, for `detach`; the last one is removed first."""
        self._parts.append(part)
        return part

    def _wrap(
        self, owner: Any, name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]
    ) -> None:
        """Put `make(method)` in place of a method until detached; see `WrappedMethod`."""
        self._put_on(WrappedMethod(owner, name, make))


def attached_to(base: nn.Module) -> Attachment[Any] | None:
    """What runs on a base model (`Anatomy.base`) now, None if nothing does."""
    running: Attachment[Any] | None = base.__dict__.get(_PLACE)
    return running


def bound_arguments(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """The arguments of a call of `module`, as its pre-hook gets them, by name.

    What does not fit its signature is left for the call itself to refuse.
    """
    # Not Signature.bind, which takes longer than all else that a hook does.
    return {**dict(zip(_names(type(module).forward)[1:], args, strict=False)), **kwargs}


@functools.lru_cache(maxsize=64)
def _names(function: Callable[..., Any]) -> tuple[str, ...]:
    """What may come by place, `self` first."""
    by_place = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = inspect.signature(function).parameters.values()
    return tuple(p.name for p in parameters if p.kind is by_place)
