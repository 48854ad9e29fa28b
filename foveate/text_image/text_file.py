"""Read a text file that somebody gave us, in pieces, or say what is wrong with it."""

from __future__ import annotations

import codecs
import io
import logging
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from foveate.errors import InputError
from foveate.files import is_folder, is_there, why_not_there

__all__ = ["MAX_UNDECODABLE", "decode_text", "read_text_file"]

CHUNK_BYTES = 1 << 16

# A few broken bytes are a text with damage, more are not text.
MAX_UNDECODABLE = 0.05

# What "surrogateescape" makes of bytes that do not decode.
UNDECODABLE = re.compile("[\udc80-\udcff]")

BYTE_ORDER_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}

logger = logging.getLogger(__name__)


def read_text_file(path: str | Path, encoding: str = "utf-8") -> Iterator[str]:
    """The text of a file in pieces of at most 64 kB, in memory that does not grow with it.

    As `decode_text`, of which the beginning is read at once, so that a wrong path or a picture
    fails here and not later.

    Raises:
        InputError: the file is missing, a folder, not readable, empty, or not text.
    """
    path = Path(path)
    if is_folder(path):
        raise InputError(f"{str(path)!r} is a folder; give a text file.")
    if not is_there(path):
        raise InputError(f"text file {str(path)!r} {why_not_there(path)}; check the path.")
    try:
        stream = path.open("rb")  # a pipe is welcome: texts come from other programs
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise InputError(f"{str(path)!r} cannot be read ({reason}); check it.") from None
    pieces = _closing(stream, repr(str(path)), encoding)
    return chain([next(pieces)], pieces)


def decode_text(stream: BinaryIO, name: str, encoding: str = "utf-8") -> Iterator[str]:
    """Decode a stream in pieces, none empty.

    All line ends become `\\n` and a byte order mark goes, as when Python opens a text file. Bytes
    that do not decode become U+FFFD, with one warning in the log.

    Args:
        stream: bytes.
        name: what errors call it.
        encoding: of the bytes.

    Raises:
        InputError: no text at all, NUL characters, more than 5 % undecodable bytes in 64 kB, or an
            encoding that Python does not know.
    """
    decoder = io.IncrementalNewlineDecoder(_decoder(encoding), translate=True)
    done = replaced = 0
    found, data = False, b"-"
    while data:
        data = stream.read(CHUNK_BYTES)
        if not done:
            _check_mark(data, name, encoding)
        try:
            text = decoder.decode(data, final=not data)
        except UnicodeError as error:
            reason = getattr(error, "reason", None) or str(error)
            raise InputError(
                f"{name} is not {encoding} text ({reason} after {done:,} bytes); give the "
                "encoding it was written in."
            ) from None
        if "\0" in text:
            raise InputError(
                f"{name} holds NUL characters, so it is a binary file or text in another "
                f"encoding than {encoding}; give a text file or its encoding."
            )
        text, damaged = UNDECODABLE.subn("\ufffd", text)
        # A character cut by the end of a small file is damage, not a wrong kind of file.
        if damaged > max(3, MAX_UNDECODABLE * len(data)):
            raise InputError(
                f"{name} has {damaged:,} bytes in {len(data):,} that are not {encoding}, above "
                f"{100 * MAX_UNDECODABLE:g} %, so it is a binary file or in another encoding; "
                "give a text file or its encoding."
            )
        replaced += damaged
        done += len(data)
        if text:
            found = True
            yield text
    if not found:
        raise InputError(f"{name} is empty; there is nothing to read.")
    if replaced:
        logger.warning("%s: %d undecodable bytes were read as U+FFFD.", name, replaced)


def _closing(stream: BinaryIO, name: str, encoding: str) -> Iterator[str]:
    with stream:
        yield from decode_text(stream, name, encoding)


def _decoder(encoding: str) -> codecs.IncrementalDecoder:
    """What decodes bytes piece by piece.

    Raises:
        InputError: Python does not know the encoding, or it is none of text (base64, zip, rot13).
    """
    try:
        # Python's own open() asks the same; there is no public name for it.
        is_text = getattr(codecs.lookup(encoding), "_is_text_encoding", True)
        made = codecs.getincrementaldecoder("utf-8-sig" if _is_utf8(encoding) else encoding)
    except (LookupError, ValueError, UnicodeError):
        raise InputError(f"encoding {encoding[:40]!r} is not known; utf-8 is usual.") from None
    if not is_text:
        raise InputError(f"{encoding!r} is no encoding of text; utf-8 is usual.")
    return made("surrogateescape")


def _is_utf8(encoding: str) -> bool:
    return codecs.lookup(encoding).name == "utf-8"


def _check_mark(data: bytes, name: str, encoding: str) -> None:
    """A UTF-16 file read as UTF-8 gets a sentence that names its encoding."""
    if not _is_utf8(encoding):
        return
    for mark, better in BYTE_ORDER_MARKS.items():
        if data.startswith(mark):
            raise InputError(
                f"{name} is {better} text, not {encoding}; give {better} as its encoding."
            )
