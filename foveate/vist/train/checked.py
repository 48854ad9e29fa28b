"""Plain values (from TOML or JSON) become dataclasses, checked field by field."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

from foveate.errors import ConfigError

__all__ = ["checked"]


def checked(kind: Any, value: Any, where: str) -> Any:
    """`value`, checked and made into `kind`; `where` names it in errors."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _dataclass(typing.cast(type, kind), value, where)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in inner:
            return None
        return checked(_fitting([k for k in inner if k is not type(None)], value), value, where)
    if origin is Literal:
        if value not in inner:
            raise ConfigError(f"{where} = {value!r}; use one of {', '.join(map(str, inner))}.")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{where} = {value!r}; give a list.")
        return tuple(checked(inner[0], item, f"{where}.{i}") for i, item in enumerate(value))
    if origin in (Mapping, dict) or getattr(origin, "__name__", "") == "Mapping":
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where} = {value!r}; give a table.")
        return {key: checked(inner[1], item, f"{where}.{key}") for key, item in value.items()}
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ConfigError(f"{where} = {value!r} is {type(value).__name__}; give {kind.__name__}.")
    return value


def _fitting(kinds: list[Any], value: Any) -> Any:
    """Of several dataclasses the one that knows most of the given fields, the first on a tie."""
    if len(kinds) == 1 or not isinstance(value, Mapping):
        return kinds[0]
    return max(kinds, key=lambda kind: len({f.name for f in dataclasses.fields(kind)} & set(value)))


def _dataclass(kind: type, value: Any, where: str) -> Any:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where} = {value!r}; give a table.")
    hints = typing.get_type_hints(kind)
    known = {f.name: f for f in dataclasses.fields(kind)}
    dot = f"{where}." if where else ""
    for name in value:
        if name not in known:
            raise ConfigError(
                f"the recipe sets {dot}{name}, which does not exist; {where or 'a recipe'} has "
                f"{', '.join(known)}."
            )
    missing = [
        name
        for name, f in known.items()
        if name not in value
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(f"the recipe lacks {dot}{missing[0]}; add it.")
    return kind(
        **{name: checked(hints[name], item, f"{dot}{name}") for name, item in value.items()}
    )
