"""Input of a batch job: the lines of a file, and where they are."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from foveate.errors import InputError
from foveate.jsonl_file import parse_row

__all__ = ["EXAMPLE", "MAX_LINE", "InputFile", "LineFile", "LinePlace", "bounded_lines",
           "read_row"]  # fmt: skip

EXAMPLE = '{"image": "cat.png", "question": "what is it?"}'
RESULTS = ("answer", "tokens")
MAX_LINE = 256 << 20  # bytes; images stand in lines as data URLs


@dataclass(frozen=True, kw_only=True)
class LinePlace:
    """A line of the input: its number, counted from 1, and the byte it starts at."""

    number: int
    offset: int


@dataclass(frozen=True, kw_only=True)
class LineFile:
    """A file of lines, for whoever answers them.

    Args:
        path: of the file.
        folder: that paths in the lines are relative to.
    """

    path: Path
    folder: Path

    def read(self, places: Sequence[LinePlace]) -> Iterator[bytes]:
        """The lines at these places."""
        with self.path.open("rb") as file:
            for place in places:
                file.seek(place.offset)
                yield file.readline()

    def resolved(self) -> LineFile:
        """The same for processes with other working folders."""
        return LineFile(path=self.path.resolve(), folder=self.folder.resolve())


class InputFile:
    """The lines of a file that are not empty; only their places are held in memory.

    Args:
        path: of the file.
        source: the file that its lines are from, if it was made of another; paths in lines are
            relative to the folder of that.

    Attributes:
        path: of the file.
        source: what the user named, or the same.
        lines: the same for whoever answers.
        fingerprint: a hash of all its bytes.

    Raises:
        InputError: the file cannot be read, holds nothing, or has a line above MAX_LINE.
    """

    def __init__(self, path: Path, *, source: Path | None = None) -> None:
        self.path = path
        self.source = source or path
        self.lines = LineFile(path=path, folder=self.source.parent)
        self._numbers, self._offsets = array("q"), array("q")
        digest, offset = hashlib.sha256(), 0
        try:
            with path.open("rb") as file:
                for number, line in enumerate(bounded_lines(file), start=1):
                    digest.update(line)
                    if line.strip():
                        self._numbers.append(number)
                        self._offsets.append(offset)
                    offset += len(line)
        except OSError as error:
            raise InputError(
                f"input {str(path)!r} cannot be read ({error.strerror}); check the path."
            ) from error
        if not self._numbers:
            raise InputError(f"input {str(path)!r} holds no lines; write lines such as {EXAMPLE}")
        self.fingerprint = digest.hexdigest()

    def __len__(self) -> int:
        return len(self._numbers)

    def places(self, start: int, stop: int) -> list[LinePlace]:
        """Of the lines that are not empty, those from `start` to before `stop`."""
        return [
            LinePlace(number=self._numbers[i], offset=self._offsets[i])
            for i in range(start, min(stop, len(self)))
        ]


def bounded_lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a file that may be anything. Raises InputError at one above MAX_LINE."""
    for number, line in enumerate(iter(lambda: file.readline(MAX_LINE + 1), b""), start=1):
        if len(line) > MAX_LINE:
            raise InputError(
                f"line {number} of the input has more than {MAX_LINE >> 20} MiB; is it JSON Lines? "
                "Write one object a line."
            )
        yield line


def read_row(line: bytes) -> tuple[str, dict[str, Any]]:
    """(text, object) of a line.

    Raises:
        InputError: it is no JSON object in UTF-8, or has a field that the answer needs.
    """
    row = parse_row(line, fix=f"write {EXAMPLE}")
    taken = [name for name in RESULTS if name in row]
    if taken:
        raise InputError(f"field {taken[0]!r} is where the result goes; rename it in the input.")
    return line.decode("utf-8-sig").strip(), row
