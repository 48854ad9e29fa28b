"""Input that is no file of JSON Lines - stdin, gzip, CSV, Parquet - written as one first.

The lines go to OUTPUT.parts under a name made of what is in them, and are deleted when the job is
done. So whoever reads a line finds it by its place, in a whole file that nobody changes, and a job
that goes on sees by the fingerprint whether its input is still the same.
"""

from __future__ import annotations

import base64
import csv
import datetime
import decimal
import gzip
import hashlib
import io
import json
import math
import sys
import uuid
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from foveate.errors import InputError
from foveate.files import open_regular, refuse_link, replacing
from foveate.jobs.batch_input import EXAMPLE, MAX_LINE, InputFile, bounded_lines

__all__ = ["STDIN", "is_stdin", "open_input"]

STDIN = Path("-")
NAMES_OF_STDIN = ("-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0")
DELIMITERS = {".csv": ",", ".tsv": "\t"}
GZIP, PARQUET = b"\x1f\x8b", b"PAR1"
# Text packs to a tenth; where more comes out than that allows for, a small file fills a disk.
MOST_UNPACKED, FREE_UNPACKED = 100, 256 << 20
ROWS = 64  # of a Parquet file in memory
IMAGES = ("image", "images")
LISTS = ("images", "messages", "body")  # columns whose CSV cells hold JSON


def is_stdin(path: Path) -> bool:
    """Whether it names standard input, which may be a pipe and is read once."""
    return str(path) in NAMES_OF_STDIN


def open_input(path: Path, parts: Path) -> InputFile:
    """The lines of a job, whatever form they come in.

    Args:
        path: JSON Lines; CSV (.csv) or tab-separated (.tsv) with a header; Parquet; any of these
            but Parquet packed by gzip; or STDIN for JSON Lines from standard input. Another pipe is
            refused: nobody knows whether it ever ends, or could be read again.
        parts: folder of the job, for what is written.

    Raises:
        InputError: it cannot be read, is not of its form, or unpacks to suspiciously much.
    """
    if is_stdin(path):
        return _spooled(bounded_lines(sys.stdin.buffer), parts, source=STDIN)
    try:
        with open_regular(path) as file:
            lines = _lines(path, file)
            return InputFile(path) if lines is None else _spooled(lines, parts, source=path)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"input {str(path)!r} cannot be read ({reason}); check the path, or write it anew."
        ) from error


def _lines(path: Path, file: BinaryIO) -> Iterator[bytes] | None:
    """The rows of a file as lines of JSON; None if they are that already."""
    mark = file.read(4)
    file.seek(0)
    if mark == PARQUET:
        return _parquet_lines(path, file)
    is_packed = mark.startswith(GZIP)
    kind = Path(path.stem if is_packed else path.name).suffix.lower()
    plain: BinaryIO = io.BufferedReader(_Unpacked(file)) if is_packed else file
    if kind in DELIMITERS:
        return _csv_lines(plain, DELIMITERS[kind])
    return bounded_lines(plain) if is_packed else None


def _spooled(lines: Iterator[bytes], parts: Path, *, source: Path) -> InputFile:
    """Write lines under a name made of their content, and open that.

    Args:
        lines: to write.
        parts: folder of the job.
        source: what they are from; images of STDIN are relative to the working folder.
    """
    refuse_link(parts)
    digest = hashlib.sha256()
    draft = parts / f"input-{uuid.uuid4().hex}.jsonl"
    is_empty = True
    try:
        with replacing(draft) as file:
            for line in lines:
                digest.update(line)
                file.write(line)
                is_empty = is_empty and not line.strip()
            if is_empty:
                raise InputError(f"the input holds no lines; write lines such as {EXAMPLE}")
    except OSError as error:
        if isinstance(error, gzip.BadGzipFile):
            raise
        raise InputError(
            f"the input cannot be copied to {parts} ({error.strerror or error}); make room, or "
            "choose another --output."
        ) from error
    path = parts / f"input-{digest.hexdigest()[:16]}.jsonl"
    draft.replace(path)
    return InputFile(path, source=source)


class _Unpacked(io.RawIOBase):
    """A gzip file as it was before; raises InputError where it grows too much."""

    def __init__(self, packed: BinaryIO) -> None:
        self._packed = packed
        self._plain = gzip.GzipFile(fileobj=packed)
        self._read = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._plain.readinto(buffer)
        self._read += count
        if self._read > FREE_UNPACKED + MOST_UNPACKED * self._packed.tell():
            raise InputError(
                f"the input unpacks to more than {MOST_UNPACKED} times its size; if that is right, "
                "unpack it with gzip -d and give the file."
            )
        return count


# --- tables ---


def _csv_lines(file: BinaryIO, delimiter: str) -> Iterator[bytes]:
    """A table with a header; cells stay texts, but for those that hold JSON or say yes or no."""
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    limit = csv.field_size_limit(MAX_LINE)  # of the whole process
    try:
        rows = csv.reader(text, delimiter=delimiter, strict=True)
        names = next(rows, [])
        if not all(names) or len(set(names)) < len(names):
            raise InputError(
                f"the table's header is {names}; name each column once, e.g. image,question."
            )
        for cells in rows:
            if cells and len(cells) != len(names):
                raise InputError(
                    f"line {rows.line_num} of the table has {len(cells)} cells, and the header "
                    f"{len(names)}; quote cells that hold {delimiter!r}."
                )
            row = {name: _cell(name, cell) for name, cell in zip(names, cells, strict=False)}
            yield _json_line(row) if row else b"\n"
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(
            f"the table cannot be read as CSV in UTF-8 ({error}); save it anew."
        ) from error
    finally:
        csv.field_size_limit(limit)


def _cell(name: str, cell: str) -> Any:
    """Texts, and what a line has that is no text. A missing image is null, not left out."""
    if name in IMAGES and not cell:
        return None
    if name == "text_only" and cell.lower() in ("", "true", "false"):
        return cell.lower() == "true"
    if name in LISTS:
        try:
            value = json.loads(cell)
            json.dumps(value, allow_nan=False)  # takes NaN no more than a line does
        except (ValueError, RecursionError):  # the line's error says what is missing
            return cell
        return value
    return cell


def _parquet_lines(path: Path, file: BinaryIO) -> Iterator[bytes]:
    """The rows of a Parquet file; images in it, as the Hub has them, become data URLs."""
    try:
        import pyarrow
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise InputError(
            f"{str(path)!r} is a Parquet file, which needs the package pyarrow; install it with "
            "pip install 'foveate[parquet]'."
        ) from error
    number = 0
    try:
        table = ParquetFile(file)
        names = table.schema_arrow.names
        if len(set(names)) < len(names):
            raise InputError(f"{str(path)!r} has the columns {names}; name each column once.")
        for batch in table.iter_batches(batch_size=ROWS):
            for row in batch.to_pylist():
                number += 1
                yield _json_line({name: _value(name, value) for name, value in row.items()})
    except (pyarrow.ArrowException, OSError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{str(path)!r} cannot be read behind row {number} ({error}); write it anew."
        ) from error


def _value(name: str, value: Any) -> Any:
    """A value of a Parquet file for JSON. Raises TypeError where JSON has none like it."""
    if isinstance(value, dict) and value.keys() == {"bytes", "path"}:
        if value["bytes"] is None:
            return value["path"]
        return f"data:;base64,{base64.b64encode(value['bytes']).decode()}"
    if isinstance(value, dict):
        return {key: _value(name, inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_value(name, inner) for inner in value]
    if isinstance(value, bytes):
        raise TypeError(f"column {name!r} holds bytes")
    if isinstance(value, float) and math.isnan(value):
        return None  # what pandas writes for a missing value
    if isinstance(value, (datetime.date, datetime.time, datetime.timedelta, decimal.Decimal)):
        return str(value)
    return value


def _json_line(row: Any) -> bytes:
    try:
        return json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    except UnicodeEncodeError:  # half a character, which only an escape can write
        return json.dumps(row, allow_nan=False).encode() + b"\n"
