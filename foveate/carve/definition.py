"""What happens when a method's class is defined, and to the settings of each object made of it."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable
from dataclasses import MISSING, fields
from typing import Any, get_type_hints

from foveate.core.budget import BUDGET
from foveate.core.settings import is_plain_kind, plain_setting
from foveate.errors import BudgetError, MethodError

__all__ = ["check_names", "is_abstract", "make_plain", "on_plain_settings", "register"]

# Settings that every method had once, and what has taken their place.
_GONE = {
    "text_share": "wrap the method, text-share({name}, share=0.3)",
    "text_relevance": "wrap the method, text-share({name}, relevance=similarity)",
}


def register(cls: type[Any], names: dict[str, type[Any]]) -> None:
    """Enter a class under its name; one that is defined anew, as in a notebook, replaces itself.

    Raises:
        MethodError: another class has the name, or it cannot be typed.
    """
    mine = f"{cls.__module__}.{cls.__qualname__}"
    if not isinstance(cls.name, str) or not re.fullmatch(r"[A-Za-z_][\w-]*", cls.name):
        raise MethodError(
            f"{mine} has name={cls.name!r}, which cannot be typed behind --method; use letters, "
            "digits, '_' and '-', a letter first."
        )
    other = names.get(cls.name, cls)
    its = f"{other.__module__}.{other.__qualname__}"
    if mine != its:
        raise MethodError(f"{mine} has the name {cls.name!r}, which {its} has; use another.")
    names[cls.name] = cls


def is_abstract(cls: type) -> bool:
    """As `inspect.isabstract`, which does not know yet while a class is being defined."""
    names = {name for base in cls.__mro__ for name in getattr(base, "__abstractmethods__", ())}
    names |= set(vars(cls))
    return any(getattr(getattr(cls, n, None), "__isabstractmethod__", False) for n in names)


def on_plain_settings(check: Callable[[Any], None]) -> Callable[[Any], None]:
    """A `__post_init__` that sees plain settings, wherever it calls those of its bases."""

    @functools.wraps(check)
    def checked(self: Any) -> None:
        make_plain(self)
        check(self)

    return checked


def check_names(cls: type[Any], settings: Iterable[str]) -> None:
    """Raise MethodError unless every name is one of the class's settings."""
    known = [f.name for f in fields(cls) if f.init]
    for name in settings:
        if name in known:
            continue
        fix = f"it has {', '.join(known)}"
        now = name.removeprefix("text_")
        if name in _GONE and now in known:
            fix = f"it is called {now}"
        elif name in _GONE:
            fix = f"{_GONE[name].format(name=cls.name)}, or foveate.TextShare(inner=...)"
        raise MethodError(f"{cls.name} has no setting {name!r}; {fix}.")


def make_plain(method: Any) -> None:
    """Every setting becomes the plain value that its annotation says.

    Methods in it stay as they are: a stack's stages.

    Raises:
        BudgetError, MethodError: a value of another kind.
    """
    cls: Any = type(method)
    for f in fields(method):
        value = plain_setting(
            f.name,
            getattr(method, f.name),
            kinds(cls)[f.name],
            BudgetError if f.name in BUDGET else MethodError,
            fix="for a share use keep_ratio" if f.name == "keep_tokens" else "",
            example=None if f.default is MISSING else f.default,
            nested=_root(cls),
        )
        object.__setattr__(method, f.name, value)


@functools.cache
def kinds(cls: Any) -> dict[str, Any]:
    """Name -> annotation of a class's settings.

    Raises:
        MethodError: one that cannot be read, or whose values JSON cannot hold.
    """
    try:
        hints = get_type_hints(cls)
    except Exception as error:
        raise MethodError(
            f"{cls.__qualname__}: an annotation cannot be read ({error}); import what it names at "
            "the top of its file."
        ) from error
    for f in fields(cls):
        if not is_plain_kind(hints[f.name], _root(cls)):
            raise MethodError(
                f"{cls.__qualname__}: setting {f.name!r} is {f.type}, which JSON cannot hold; "
                "use int, float, str, bool, None, Literal, or tuples of them."
            )
    return {f.name: hints[f.name] for f in fields(cls)}


def _root(cls: type[Any]) -> type[Any]:
    """Method, which this file cannot import: the oldest class that settings come from."""
    return [base for base in cls.__mro__ if "__dataclass_fields__" in vars(base)][-1]
