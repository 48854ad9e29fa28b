"""Held-out documents for language modelling: text files and JSONL, cut into documents."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from foveate.errors import InputError
from foveate.files import is_there, open_regular, why_not_there
from foveate.jsonl_file import read_rows

__all__ = ["Document", "data_files", "load_documents"]

SUFFIXES = (".txt", ".md", ".jsonl")
BLOCK_CHARS = 24_000
# " = Title = " opens an article of a wikitext file, " = = Section = = " does not.
_ARTICLE = re.compile(r"^ ?= (?!=)[^\n]*(?<!=) = ?$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Document:
    """One document; statistics treat it as one observation.

    Args:
        text: what it says.
        id: unique within the data.
        domain: tables are by domain.
    """

    text: str
    id: str
    domain: str


def load_documents(
    paths: Sequence[str | Path],
    *,
    domains: Sequence[tuple[str, str | Path]] = (),
    block_chars: int = BLOCK_CHARS,
) -> list[Document]:
    """Read documents from files and folders, in order of name.

    A .jsonl file holds one document a line (`text`, optionally `id`). A text file with wikitext
    article headings (` = Title = `) is cut there; any other is cut at blank lines into blocks of
    about `block_chars` characters, and each block counts as a document.

    Args:
        paths: files or folders; the domain is the file's name.
        domains: (domain, file or folder) pairs.
        block_chars: size of a block.

    Raises:
        InputError: nothing to read, a file that is not UTF-8, or a bad line.
    """
    if block_chars < 1:
        raise InputError(f"block_chars={block_chars} is below 1; use some thousands.")
    documents = []
    named: list[tuple[str | None, str | Path]] = [(None, path) for path in paths]
    for domain, path in [*named, *domains]:
        for file in data_files(Path(path)):
            name = domain or file.stem
            documents += [
                Document(text=text, id=f"{name}/{file.stem}#{i}", domain=name)
                for i, text in enumerate(_texts(file, block_chars))
            ]
    if not documents:
        raise InputError(
            "there is no document to read; give --data FILE_OR_FOLDER or --domain NAME=PATH."
        )
    return documents


def data_files(path: Path, suffixes: Sequence[str] = SUFFIXES) -> list[Path]:
    """A file itself, or those of a folder that have one of the suffixes, in order of name.

    Raises:
        InputError: there is none.
    """
    if not is_there(path):
        raise InputError(f"data {str(path)!r} {why_not_there(path)}; check the path.")
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InputError(f"data {str(path)!r} is a pipe, a device or a socket; give a file.")
    try:
        files = sorted(file for file in path.iterdir() if file.suffix in suffixes)
    except OSError as error:
        raise InputError(f"folder {str(path)!r} cannot be read ({error.strerror}).") from error
    if not files:
        raise InputError(f"folder {str(path)!r} has no {', '.join(suffixes)} file.")
    return files


def _texts(file: Path, block_chars: int) -> Iterator[str]:
    if file.suffix == ".jsonl":
        yield from (row.text("text") for row in read_rows(file, fix='write {"text": "..."}.'))
        return
    try:
        with open_regular(file) as opened:
            text = opened.read().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{str(file)!r} cannot be read as UTF-8 text: {error}.") from error
    starts = [match.start() for match in _ARTICLE.finditer(text)]
    if len(starts) > 1:
        for start, stop in zip(starts, [*starts[1:], len(text)], strict=True):
            yield text[start:stop]
    else:
        yield from _blocks(text, block_chars)


def _blocks(text: str, size: int) -> Iterator[str]:
    """Cut at the first blank line after `size` characters; a short rest joins the last block."""
    start = 0
    while len(text) - start >= 2 * size:
        blank = text.find("\n\n", start + size)
        stop = blank + 2 if 0 <= blank < start + 2 * size else start + size
        yield text[start:stop]
        start = stop
    if text[start:].strip():
        yield text[start:]
