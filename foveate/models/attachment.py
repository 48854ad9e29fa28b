"""What is attached to a model: one thing at a time, put on by hooks, taken off without a trace."""

from __future__ import annotations

import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar

from torch import nn
from typing_extensions import Self

from foveate.errors import AttachError
from foveate.models.anatomy import Anatomy

# The base model itself holds what is attached to it, so that both are freed together: a registry
# beside it would keep the model alive, because an attachment knows its model.
_PLACE = "_foveate_attachment"


class Part(Protocol):
    """What can be taken off again: a hook's handle, a recorder, a wrapped method."""

    def remove(self) -> None: ...


P = TypeVar("P", bound=Part)
R = TypeVar("R")


class Attachment(ABC, Generic[R]):
    """Base of what runs on an unmodified model until it is detached; a context manager.

    A subclass puts its parts on in `_install`, each through `_put_on` or `_wrap`, and gives up its
    state of calls in `_forget`.

    Args:
        anatomy: of the model.

    Attributes:
        reports: of all prompts, oldest first.
    """

    def __init__(self, anatomy: Anatomy) -> None:
        self._anatomy = anatomy
        self.reports: list[R] = []
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
        """What the last prompt did; None before the first."""
        return self.reports[-1] if self.reports else None

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


class WrappedMethod:
    """A method replaced on the instance, never on the class.

    Args:
        owner: whose method.
        name: of the method.
        make: what it was -> what stands there until `remove`, in its signature.
    """

    def __init__(
        self,
        owner: Any,
        name: str,
        make: Callable[[Callable[..., Any]], Callable[..., Any]],
    ) -> None:
        self._owner, self._name = owner, name
        # The instance may have one of its own already, from somebody else.
        self._had_own = name in owner.__dict__
        self._before = getattr(owner, name)
        owner.__dict__[name] = functools.wraps(self._before)(make(self._before))

    def remove(self) -> None:
        """Put back exactly what was there."""
        if self._had_own:
            self._owner.__dict__[self._name] = self._before
        else:
            self._owner.__dict__.pop(self._name, None)


def attached_to(base: nn.Module) -> Attachment[Any] | None:
    """What runs on a base model (`Anatomy.base`) now, None if nothing does."""
    running: Attachment[Any] | None = base.__dict__.get(_PLACE)
    return running


def bound_arguments(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """The arguments of a call of `module`, as its pre-hook gets them, by name."""
    bound = dict(_signature(type(module).forward).bind_partial(module, *args, **kwargs).arguments)
    bound.update(bound.pop("kwargs", {}))
    return bound


@functools.lru_cache(maxsize=64)
def _signature(function: Callable[..., Any]) -> inspect.Signature:
    return inspect.signature(function)
