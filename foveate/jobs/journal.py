"""Journal: an append-only file of records that a kill at any byte cannot spoil.

A record is one line: the CRC-32 of its JSON in eight hexadecimal digits, a space, the JSON. Records
go to the disk together, with one write and one fsync, before `append` returns. What a killed
process or a failing machine leaves behind the last fsync may be anything: half a line, or a hole
with whole lines behind it. So reading stops at the first line that is not whole, and the process
that goes on writing cuts the file there first. What was cut was never promised to anyone.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from foveate.errors import InputError
from foveate.files import NO_LINK, fsync_folder, open_regular

__all__ = ["Journal", "read_journal", "record_at"]

MARK = 9  # eight digits and the space


class Journal:
    """A journal that this process alone writes.

    Args:
        path: of the file, made if it is not there; a torn end is cut off.

    Raises:
        InputError: another process writes it, or it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            is_new = not path.exists()
            # A link that somebody planted here would have its target cut and written.
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | NO_LINK
            self._file = os.open(path, flags, 0o666)
        except OSError as error:
            raise self._unwritable(error) from error
        try:
            _lock(self._file)
            with open_regular(path) as file:
                end = sum(len(line) for _, line in _whole_lines(file))
            os.ftruncate(self._file, end)
            os.fsync(self._file)
            if is_new:
                fsync_folder(path.parent)
        except BlockingIOError:
            os.close(self._file)
            raise InputError(
                f"{path} is being written by another run; wait for it, end it, or choose another "
                "--output."
            ) from None
        except OSError as error:
            os.close(self._file)
            raise self._unwritable(error) from error

    def append(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Add records; they are on the disk when this returns.

        Raises:
            InputError: the disk is full or gone.
        """
        rest = memoryview(b"".join(map(_line, records)))
        try:
            while rest:  # a write may take less than it was given
                rest = rest[os.write(self._file, rest) :]
            os.fsync(self._file)
        except OSError as error:
            raise self._unwritable(error) from error

    def empty(self) -> None:
        """Forget all records. Raises OSError where the file cannot be cut."""
        os.ftruncate(self._file, 0)
        os.fsync(self._file)

    def close(self) -> None:
        """Let other processes write it."""
        os.close(self._file)

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _unwritable(self, error: OSError) -> InputError:
        return InputError(
            f"{self.path} cannot be written ({error.strerror}); make room, or choose another "
            "--output."
        )


def read_journal(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(place in the file, record) of every whole record up to the first that is not."""
    with open_regular(path) as file:
        for place, line in _whole_lines(file):
            yield place, json.loads(line[MARK:])


def record_at(file: BinaryIO, place: int) -> dict[str, Any]:
    """The record at a place that `read_journal` gave."""
    file.seek(place)
    record: dict[str, Any] = json.loads(file.readline()[MARK:])
    return record


def _line(record: Mapping[str, Any]) -> bytes:
    body = json.dumps(record).encode("ascii")
    return b"%08x %s\n" % (zlib.crc32(body), body)


def _whole_lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    place = 0
    for line in file:
        mark, body = line[:MARK], line[MARK:-1]
        if not line.endswith(b"\n") or mark != b"%08x " % zlib.crc32(body):
            return
        yield place, line
        place += len(line)


def _lock(handle: int) -> None:
    """Raises BlockingIOError if another process holds it; a lock ends with its process."""
    try:
        import fcntl
    except ImportError:  # not a Unix: two runs at once are the user's to avoid
        return
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
