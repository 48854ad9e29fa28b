"""What is put on a model from outside, hooks and replaced methods, and stays out of its copies.

A deep copy of a module copies its hooks too, and a function that stands in place of a method is
shared by both, so that a copy would generate with the original's weights. These leave the copy a
plain model.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any, NoReturn

from torch import nn
from torch.utils.hooks import RemovableHandle

from foveate.errors import AttachError


class _Guest:
    """Something on a model that cannot be written to a file with it."""

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise AttachError(
            "the model has something of foveate attached, which cannot be pickled; detach it first "
            "(and prefer save_pretrained)."
        )


class Hook(_Guest):
    """A hook that does nothing in a deep copy of its module.

    Args:
        call: the hook.
    """

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._call(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Callable[..., None]:
        return _nothing


def _nothing(*args: Any, **kwargs: Any) -> None:
    """In the place of a hook, in a copy."""


def hook_before(module: nn.Module, call: Callable[..., Any]) -> RemovableHandle:
    """Run call(module, args, kwargs) before each call of a module; see `Hook`."""
    return module.register_forward_pre_hook(Hook(call), with_kwargs=True)


def hook_after(
    module: nn.Module,
    call: Callable[..., Any],
    *,
    always: bool = False,
    with_kwargs: bool = False,
) -> RemovableHandle:
    """Run call(module, args, output) after each call of a module; see `Hook`.

    Args:
        module: whose calls.
        call: the hook.
        always: also after an exception, with output None.
        with_kwargs: it is given (module, args, kwargs, output).
    """
    return module.register_forward_hook(Hook(call), always_call=always, with_kwargs=with_kwargs)


class WrappedMethod(_Guest):
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
        self._call = make(self._before)
        owner.__dict__[name] = functools.update_wrapper(self, self._before)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._call(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """What stands in a copy of the owner: the method, of the copy."""
        owner = memo.get(id(self._owner))
        if self._had_own or owner is None:
            return self._before
        return types.MethodType(getattr(type(self._owner), self._name), owner)

    def remove(self) -> None:
        """Put back exactly what was there."""
        if self._had_own:
            self._owner.__dict__[self._name] = self._before
        else:
            self._owner.__dict__.pop(self._name, None)
