"""JSON Lines: one object a line, read with its place, or one sentence about what is wrong."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from foveate.errors import InputError
from foveate.files import open_regular

__all__ = ["JsonRow", "parse_row", "read_rows", "row_at"]


@dataclass(frozen=True, kw_only=True)
class JsonRow:
    """One object and its place.

    Args:
        fields: the object.
        number: of its line, counted from 1, empty ones too.
        where: file and line, in front of errors.
        fix: how to mend a line, at the end of errors.
    """

    fields: dict[str, Any]
    number: int
    where: str
    fix: str

    def text(self, key: str, *, can_be_blank: bool = True) -> str:
        """A field that is a text.

        Raises:
            InputError: it is missing, blank where it cannot be, or not a text.
        """
        value = self.fields.get(key)
        if not isinstance(value, str) or not (can_be_blank or value.strip()):
            raise self.refused(f"{key!r} is missing or not a text")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """A field that is a text, a number, or a list of those.

        Raises:
            InputError: it is missing, empty, or holds something else.
        """
        value = self.fields.get(key)
        found = [value] if isinstance(value, (str, int, float)) else value
        if not isinstance(found, list) or not found:
            raise self.refused(f"{key!r} is missing or empty")
        if not all(isinstance(item, (str, int, float)) for item in found):
            raise self.refused(f"{key!r} holds something that is not a text")
        return tuple(map(str, found))

    def refused(self, reason: str) -> InputError:
        """The error to raise about this line."""
        return InputError(f"{self.where}: {reason}; {self.fix}")


def read_rows(file: Path, *, fix: str) -> Iterator[JsonRow]:
    """The rows of a file, one line at a time; empty lines are skipped.

    Args:
        file: in UTF-8.
        fix: how to mend a line, at the end of errors, such as an example of one.

    Raises:
        InputError: the file cannot be read, or a line (named) is no JSON object.
    """
    try:
        with io.TextIOWrapper(open_regular(file), encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield row_at(line, file, number, fix=fix)
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(f"{str(file)!r} cannot be read as UTF-8 text: {error}.") from error


def row_at(line: str | bytes, file: Path, number: int, *, fix: str) -> JsonRow:
    """The row of one line. Raises InputError, which names the line, if it is no JSON object."""
    where = f"{file}, line {number}"
    try:
        return JsonRow(fields=parse_row(line, fix=fix), number=number, where=where, fix=fix)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def parse_row(line: str | bytes, *, fix: str) -> dict[str, Any]:
    """The object of a line.

    Raises:
        InputError: it is not UTF-8, not JSON (as NaN and Infinity are not), or no object; the
            caller knows where.
    """
    try:
        text = line.decode("utf-8-sig") if isinstance(line, bytes) else line
        row = json.loads(text, parse_constant=_no_number)
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8 text ({error.reason}); save the file as UTF-8.") from error
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else ""
        reason = reason or getattr(error, "msg", "") or str(error)
        raise InputError(f"not JSON ({reason}); {fix}") from error
    if not isinstance(row, dict):
        raise InputError(f"got {type(row).__name__}, not an object; {fix}")
    return row


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON number")
