"""The FILE argument of commands that read text: a file, or standard input."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import chain

from foveate.errors import InputError

__all__ = ["check_not_blank", "open_text", "read_at_most"]

STDIN = "-"
BLANK_CHUNKS = 256  # of 64 kB: 16 MB of blanks are no text


def open_text(file: str, encoding: str) -> Iterator[str]:
    """A text file, or stdin, in pieces.

    Raises:
        InputError: it is missing, empty or no text.
    """
    from foveate.text_image.text_file import decode_text, read_text_file

    if file == STDIN:
        return decode_text(sys.stdin.buffer, "standard input", encoding)
    return read_text_file(file, encoding)


def read_at_most(chunks: Iterator[str], most: int | None) -> str:
    """The text, but not the rest of one that is longer than `most` characters."""
    pieces, length = [], 0
    for chunk in chunks:
        pieces.append(chunk)
        length += len(chunk)
        if most is not None and length > most:
            break
    return "".join(pieces)


def check_not_blank(chunks: Iterator[str], file: str) -> Iterator[str]:
    """The same text. Raises InputError, before anything is loaded, where it is blank."""
    held = []
    for chunk in chunks:
        held.append(chunk)
        if chunk.strip():
            return chain(held, chunks)
        if len(held) == BLANK_CHUNKS:
            break
    raise InputError(f"{file!r} holds nothing but blanks; there is nothing to read.")
