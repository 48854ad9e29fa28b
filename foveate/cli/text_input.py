"""The FILE argument of commands that read text: a file, or standard input."""

from __future__ import annotations

import sys
from collections.abc import Iterator

__all__ = ["open_text", "read_at_most"]

STDIN = "-"


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
