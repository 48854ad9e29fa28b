"""Read TOML on every Python, and change single values by dotted keys."""

from __future__ import annotations

import importlib
import importlib.util
import typing
from typing import Any

from foveate.errors import ConfigError, InputError

__all__ = ["apply_setting", "parse_toml"]


def parse_toml(text: str) -> dict[str, Any]:
    """A TOML text as nested dicts. Raises ValueError where it is none."""
    # Python 3.10 has no reader of its own.
    name = "tomllib" if importlib.util.find_spec("tomllib") else "tomli"
    try:
        toml = importlib.import_module(name)
    except ImportError as error:
        raise InputError(
            "Python 3.10 cannot read TOML by itself; pip install tomli, or use Python 3.11."
        ) from error
    return typing.cast(dict[str, Any], toml.loads(text))


def apply_setting(values: dict[str, Any], setting: str) -> None:
    """Apply "key=value" to `values`, see load_recipe.

    Raises:
        ConfigError: it is not of that form, or its key leads nowhere.
    """
    key, equals, written = setting.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set got {setting!r}; write key=value, e.g. run.batch=4.")
    try:
        value = parse_toml(f"value = {written}")["value"]
    except ValueError:
        value = written
    *parents, last = key.strip().split(".")
    here: Any = values
    for part in parents:
        if isinstance(here, list):
            here = _item(here, part, setting)
        elif isinstance(here, dict):
            here = here.setdefault(part, {})
        else:
            raise ConfigError(f"--set {setting}: {part!r} lies below a value, not a table.")
    if isinstance(here, list):
        here[here.index(_item(here, last, setting))] = value
    elif isinstance(here, dict):
        here[last] = value
    else:
        raise ConfigError(f"--set {setting}: {last!r} lies below a value, not a table.")


def _item(items: list[Any], index: str, setting: str) -> Any:
    if not index.isdigit() or int(index) >= len(items):
        raise ConfigError(
            f"--set {setting}: {index!r} is no place in a list of {len(items)}; count from 0."
        )
    return items[int(index)]
