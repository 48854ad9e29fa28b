"""Plain values (from TOML or JSON) become dataclasses; pydantic checks them field by field."""

from __future__ import annotations

import dataclasses
import typing
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import pydantic
import pydantic_core

from foveate.errors import ConfigError

__all__ = ["checked"]

MOST = 2**31 - 1  # of any number
MOST_DEEP = 16

_Settings = TypeVar("_Settings")


def checked(kind: type[_Settings], values: Mapping[str, Any]) -> _Settings:
    """`values`, checked and made into the dataclass `kind`, its tables into those of its fields.

    Strict: an int is also a float and a list a tuple, but a text is no number and True no int.

    Raises:
        ConfigError: names, with dots, every field that is unknown, missing or of the wrong type.
    """
    _check_plain(values, "")
    # As JSON, because a strict reader of Python's objects takes no list for a tuple.
    text = pydantic_core.to_json(values, inf_nan_mode="constants")
    try:
        return pydantic.TypeAdapter(kind).validate_json(text, strict=True, extra="forbid")
    except pydantic.ValidationError as error:
        sentences = _sentences(kind, error.errors(include_url=False))
        raise ConfigError(" ".join(sentences)) from error


def _check_plain(value: Any, where: str, depth: int = 0) -> None:
    """Raise ConfigError for nesting, sizes and numbers that no settings have."""
    if depth > MOST_DEEP:
        raise ConfigError(f"{where[:60]} ... is nested more than {MOST_DEEP} deep; no setting is.")
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _check_plain(inner, f"{where}.{key}" if where else str(key), depth + 1)
    elif isinstance(value, (list, tuple)):
        for place, inner in enumerate(value):
            _check_plain(inner, f"{where}.{place}", depth + 1)
    elif isinstance(value, (int, float)) and not abs(value) <= MOST:
        raise ConfigError(
            f"{where[:60]} = {str(value)[:40]} is no number that a setting can have; use one from "
            f"-{MOST:,} to {MOST:,}."
        )


def _sentences(kind: Any, mistakes: Sequence[Any]) -> list[str]:
    """One for each mistake, those of only one of two dataclasses that a field may hold."""
    places = [_place(kind, mistake["loc"]) for mistake in mistakes]
    unknown: Counter[str] = Counter()
    for (_, _, choice), mistake in zip(places, mistakes, strict=True):
        unknown[choice] += mistake["type"] == "unexpected_keyword_argument"
    # The one that knows most of the given fields, the first on a tie.
    likely = min((choice for choice in unknown if choice), key=lambda c: unknown[c], default="")
    return [
        _sentence(path, owner, mistake)
        for (path, owner, choice), mistake in zip(places, mistakes, strict=True)
        if choice in ("", likely)
    ]


def _place(kind: Any, loc: Sequence[int | str]) -> tuple[list[str], Any, str]:
    """pydantic's `loc` as (keys, the dataclass that holds the last, which of two it chose)."""
    path, owner, choice = [], None, ""
    for part in loc:
        kinds = [k for k in typing.get_args(kind) or (kind,) if dataclasses.is_dataclass(k)]
        named = [k for k in kinds if len(kinds) > 1 and k.__name__ == part]  # type: ignore[union-attr]
        if named:
            kind, choice = named[0], str(part)
            continue
        path.append(str(part))
        if isinstance(part, int):
            kind = kinds[0] if kinds else None
        else:
            owner = kinds[0] if kinds else None
            kind = typing.get_type_hints(owner).get(part) if owner else None
    return path, owner, choice


def _sentence(path: Sequence[str], owner: Any, mistake: Any) -> str:
    """What was got and where, the limit, the fix."""
    where = ".".join(path)
    if mistake["type"] == "value_error":  # of a __post_init__: a sentence already
        return str(mistake["ctx"]["error"])
    if mistake["type"] == "missing":
        return f"the recipe lacks {where}; add it."
    if mistake["type"] == "unexpected_keyword_argument":
        known = ", ".join(field.name for field in dataclasses.fields(owner))
        above = ".".join(path[:-1]) or "a recipe"
        return f"the recipe sets {where}, which does not exist; {above} has {known}."
    return f"{where} = {mistake['input']!r} {mistake['msg'].removeprefix('Input ')}."
