"""Plain values of settings: numbers, words, and tuples of them, as a field's annotation says.

numpy's and torch's numbers and JSON's lists come in, Python's own types go out. So whatever was
given, settings compare, hash, print and become JSON alike.
"""

from __future__ import annotations

import math
import numbers
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

__all__ = ["is_plain_kind", "plain_setting"]

_NOUNS = {int: "integer", float: "finite number", str: "text", bool: "truth value"}
_EXAMPLES: dict[Any, Any] = {int: 1, float: 0.5, str: "word", bool: True}


class _OtherKindError(Exception):
    """A value is not of the kind asked for."""


def plain_setting(
    name: str,
    value: Any,
    kind: Any,
    error: type[Exception],
    *,
    fix: str = "",
    example: Any = None,
    nested: type | None = None,
) -> Any:
    """The value as a plain one of its kind.

    Args:
        name: of the setting, for the sentence.
        value: any; 0-d arrays and tensors are numbers, lists and 1-d arrays are tuples.
        kind: an annotation that `is_plain_kind`.
        error: what to raise.
        fix: end of that sentence; "" makes one from `example`, or from the kind.
        nested: objects of this class (and its subclasses) are left as they are.

    Returns:
        int, float, str, bool, None, a tuple of them, or an object of `nested`.

    Raises:
        error: it is of another kind, or not finite. A truth value is no number, a fraction is no
            integer, and text is never read as a number.

    Example:
        >>> plain_setting("depths", [0, 0.5], tuple[float, ...], ValueError)
        (0.0, 0.5)
    """
    try:
        return _plain(value, kind, nested)
    except _OtherKindError:
        pass
    options = _options(kind)
    if options:
        either = " or ".join(options) if len(options) < 3 else f"one of {', '.join(options)}"
        raise error(f"{name}={value!r} is unknown; use {either}.")
    shown = _example(kind) if example is None else repr(example)
    fix = fix or f"write e.g. {name}={shown}"
    raise error(f"{name}={value!r} is no {_noun(kind)}; {fix}.")


def is_plain_kind(kind: Any, nested: type | None = None) -> bool:
    """Whether all values of an annotation are JSON: int, float, str, bool, None, Literal of them,
    `tuple` of them, and unions; or the class `nested` (and its subclasses)."""
    args = get_args(kind)
    if _is_union(kind):
        return all(is_plain_kind(arm, nested) for arm in args)
    if get_origin(kind) is Literal:
        return all(isinstance(option, (str, int, NoneType)) for option in args)
    if get_origin(kind) is tuple:
        return all(arm is Ellipsis or is_plain_kind(arm, nested) for arm in args)
    if kind in (int, float, str, bool, None, NoneType):
        return True
    return nested is not None and isinstance(kind, type) and issubclass(kind, nested)


def _plain(value: Any, kind: Any, nested: type | None) -> Any:
    args = get_args(kind)
    if _is_union(kind):
        for arm in args:
            try:
                return _plain(value, arm, nested)
            except _OtherKindError:
                continue
        raise _OtherKindError
    if get_origin(kind) is tuple:
        items = _items(value)
        arms = args[:1] * len(items) if Ellipsis in args else args
        if len(items) != len(arms):
            raise _OtherKindError
        return tuple(_plain(item, arm, nested) for item, arm in zip(items, arms, strict=True))
    if nested is not None and isinstance(kind, type) and issubclass(kind, nested):
        if not isinstance(value, kind):
            raise _OtherKindError
        return value
    value = _scalar(value)
    if get_origin(kind) is Literal:
        for option in args:
            if type(option) is type(value) and option == value:  # True is not 1
                return option
        raise _OtherKindError
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if kind is int and is_number and isinstance(value, numbers.Integral):
        return int(value)
    if kind is float and is_number:
        return _finite(value)
    if (kind is str and isinstance(value, str)) or (kind is bool and isinstance(value, bool)):
        return value
    if kind in (None, NoneType) and value is None:
        return None
    raise _OtherKindError


def _scalar(value: Any) -> Any:
    """numpy's and torch's numbers as Python's, and their like of text."""
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        value = value.item()
    return str.__str__(value) if isinstance(value, str) else value


def _finite(value: Any) -> float:
    try:
        number = float(value)
    except OverflowError:
        raise _OtherKindError from None
    if not math.isfinite(number):
        raise _OtherKindError
    return number


def _items(value: Any) -> list[Any]:
    if getattr(value, "shape", ()) != () and hasattr(value, "tolist"):
        value = value.tolist()
    if not isinstance(value, (list, tuple)):
        raise _OtherKindError
    return list(value)


def _is_union(kind: Any) -> bool:
    return get_origin(kind) in (Union, UnionType)


def _arms(kind: Any) -> list[Any]:
    """Of a union, without None, which nobody gives by mistake."""
    arms = get_args(kind) if _is_union(kind) else (kind,)
    return [arm for arm in arms if arm not in (None, NoneType)]


def _options(kind: Any) -> list[str]:
    """The words there are to choose from, where there is nothing else."""
    arms = _arms(kind)
    if not all(get_origin(arm) is Literal for arm in arms):
        return []
    options = [repr(option) for arm in arms for option in get_args(arm)]
    return [*options, "None"] if _is_union(kind) and NoneType in get_args(kind) else options


def _noun(kind: Any) -> str:
    nouns = []
    for arm in _arms(kind):
        if get_origin(arm) is tuple:
            inner = dict.fromkeys(_noun(part) for part in get_args(arm) if part is not Ellipsis)
            nouns.append(f"tuple of {' and '.join(f'{noun}s' for noun in inner)}")
        elif get_origin(arm) is Literal:
            nouns.append(" or ".join(map(repr, get_args(arm))))
        else:
            nouns.append(_NOUNS.get(arm) or getattr(arm, "__name__", str(arm)).lower())
    return " or ".join(nouns)


def _example(kind: Any) -> str:
    for arm in _arms(kind):
        if get_origin(arm) is tuple:
            parts = [_example(part) for part in get_args(arm) if part is not Ellipsis]
            return f"({', '.join(parts)}{',' if len(parts) == 1 else ''})"
        if arm in _EXAMPLES:
            return repr(_EXAMPLES[arm])
    return "..."
