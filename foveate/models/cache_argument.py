"""What a model calls the KV cache it is given: `past_key_values`, and `cache` from 5.24 on."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn
from transformers import Cache

NAMES = ("past_key_values", "cache")


def cache_in(arguments: Mapping[str, Any]) -> Any:
    """The cache among the arguments of a call, None for none."""
    for name in NAMES:
        value = arguments.get(name)
        # An argument called "cache" may be anything; the other name is a cache's alone.
        if value is not None and (name == NAMES[0] or isinstance(value, Cache)):
            return value
    return None


def cache_of(output: Any) -> Cache | None:
    """The cache that a model's output holds, None for none."""
    for name in reversed(NAMES):  # where the new name is, the old one is deprecated
        found = getattr(output, name, None)
        if isinstance(found, Cache):
            return found
    return None


def with_cache(arguments: Mapping[str, Any], cache: Any) -> dict[str, Any]:
    """The arguments with another cache, under the name that they have for it."""
    held = cache_in(arguments)
    name = next((name for name in NAMES if name in arguments and arguments[name] is held), None)
    return {**arguments, name: cache} if name is not None else dict(arguments)


def cache_name(module: nn.Module) -> str:
    """The name that a model's, layer's or attention's forward has for its cache."""
    return _name_of(type(module).forward)


@functools.lru_cache(maxsize=64)
def _name_of(forward: Any) -> str:
    return "cache" if "cache" in inspect.signature(forward).parameters else NAMES[0]
