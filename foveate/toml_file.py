"""Small TOML files: read within limits, for a stranger may have made them, and written."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foveate.errors import InputError
from foveate.files import open_regular

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["read_toml", "toml_lines"]

MOST_BYTES = 1 << 16
MOST_DEPTH, MOST_ENTRIES, MOST_CHARS = 6, 200, 2000


def read_toml(path: Path, *, what: str) -> dict[str, Any]:
    """The tables of a small file.

    Args:
        path: of the file.
        what: the file is, for errors.

    Raises:
        InputError: it cannot be read, is no TOML, too large, or nested too deeply.
    """
    where = f"{what} {str(path)!r}"
    try:
        with open_regular(path) as file:
            data = file.read(MOST_BYTES + 1)
    except InputError:
        raise
    except (OSError, ValueError) as error:  # a name that no file system takes
        raise InputError(f"{where} cannot be read ({error}); check it.") from error
    if len(data) > MOST_BYTES:
        raise InputError(f"{where} has more than {MOST_BYTES:,} bytes; it should be small.")
    try:
        values = tomllib.loads(data.decode("utf-8"))
    except RecursionError as error:
        raise InputError(f"{where} is nested too deeply.") from error
    except ValueError as error:
        raise InputError(f"{where} is no TOML: {error}.") from error
    _check_size(values, where, MOST_DEPTH)
    return values


def _check_size(value: Any, where: str, depth: int) -> None:
    """Refuse what is nested too deeply, too long, or has too many entries."""
    if isinstance(value, str) and len(value) > MOST_CHARS:
        raise InputError(
            f"{where} has a text of {len(value):,} characters, above the limit of {MOST_CHARS:,}; "
            f"it begins with {value[:40]!r}."
        )
    if not isinstance(value, (dict, list)):
        return
    if depth == 0:
        raise InputError(f"{where} is nested more than {MOST_DEPTH} deep.")
    if len(value) > MOST_ENTRIES:
        raise InputError(
            f"{where} has {len(value):,} entries in one place, above the limit of {MOST_ENTRIES}."
        )
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        _check_size(str(key), where, depth)
        _check_size(item, where, depth - 1)


def toml_lines(tables: Mapping[str, Any], path: str = "") -> list[str]:
    """TOML of tables, plain values and lists: what is plain first, as TOML wants it.

    Args:
        tables: texts, numbers, truth values, mappings and lists, by name.
        path: of the table they are in, with a dot behind it; "" for the file itself.
    """
    lines = [
        f"{_key(key)} = {_written(value)}"
        for key, value in tables.items()
        if not isinstance(value, Mapping) and not _is_tables(value)
    ]
    for key, value in tables.items():
        place = f"{path}{_key(key)}"
        if isinstance(value, Mapping):
            lines += ["", f"[{place}]", *toml_lines(value, f"{place}.")]
        elif _is_tables(value):
            for item in value:
                lines += ["", f"[[{place}]]", *toml_lines(item, f"{place}.")]
    return lines


def _is_tables(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, Mapping) for v in value)


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _written(key)


def _written(value: Any) -> str:
    """A plain value, or a list of them."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, list):
        return f"[{', '.join(map(_written, value))}]"
    return '"' + "".join(map(_escaped, value)) + '"'


def _escaped(letter: str) -> str:
    if letter in '"\\':
        return f"\\{letter}"
    return letter if letter.isprintable() else f"\\U{ord(letter):08x}"
