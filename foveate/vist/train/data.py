"""Where training text comes from: local files, or a data set of the Hub, one document at a time."""

from __future__ import annotations

import glob
import gzip
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

from foveate.errors import InputError
from foveate.jsonl_file import row_at

__all__ = ["DocumentSource", "FileSource", "HubSource"]

SUFFIXES = (".txt", ".jsonl", ".txt.gz", ".jsonl.gz")


class DocumentSource(Protocol):
    """Documents in a fixed order, each known by its place in it."""

    def read(self, first: int, step: int) -> Iterator[tuple[int, str]]:
        """Yield documents first, first + step, ... to the end, with their places."""
        ...

    def identity(self) -> dict[str, Any]:
        """What tells this data from other data, JSON-ready."""
        ...


class FileSource:
    """Local files: .txt is one document, .jsonl one a line; both may be gzipped.

    Args:
        files: paths or glob patterns, read in the given order, the matches of a pattern sorted.
        text: key of the text in a line of JSON.

    Raises:
        InputError: a pattern matches nothing, or a file has another suffix. `read` raises it for a
            line that is not JSON or has no text.
    """

    def __init__(self, files: Sequence[str | Path], *, text: str = "text") -> None:
        self.text = text
        self.files: list[Path] = []
        for pattern in map(str, files):
            found = sorted(glob.glob(os.path.expanduser(pattern), recursive=True))
            found = [name for name in found if Path(name).is_file()]
            if not found:
                raise InputError(f"{pattern} matches no file; check the path of the training data.")
            for name in found:
                if not name.endswith(SUFFIXES):
                    raise InputError(
                        f"{name} is not of a kind that can be read ({', '.join(SUFFIXES)}); "
                        "convert it, or leave it out."
                    )
            self.files += [Path(name) for name in found]

    def read(self, first: int, step: int) -> Iterator[tuple[int, str]]:
        """See DocumentSource. Lines of other documents are skipped without parsing them."""
        place, wanted = 0, first
        fix = "repair it, leave it out, or set data.text to the key that holds its text."
        for path in self.files:
            with _opened(path) as file:
                if ".txt" in path.suffixes:
                    if place == wanted:
                        yield place, _text(path, file)
                        wanted += step
                    place += 1
                    continue
                for number, line in enumerate(file, 1):
                    if not line.strip():
                        continue
                    if place == wanted:
                        yield place, row_at(line, path, number, fix=fix).text(self.text)
                        wanted += step
                    place += 1

    def identity(self) -> dict[str, Any]:
        """Names and sizes; moving the folder does not matter."""
        return {
            "files": [[path.name, path.stat().st_size] for path in self.files],
            "text": self.text,
        }


def _opened(path: Path) -> IO[bytes]:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def _text(path: Path, file: IO[bytes]) -> str:
    try:
        return file.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 ({error}); convert it, or leave it out.") from error


class HubSource:
    """A data set by name through the `datasets` package, streamed.

    Args:
        name: id on the Hub, or a local folder that the package can read.
        config: name of a configuration, "" for the default.
        split: which part.
        text: column of the text.
        revision: commit or tag; give one for runs that must be repeatable.

    Raises:
        InputError: `datasets` is not installed, the set cannot be read, or it lacks the column.
    """

    def __init__(
        self,
        name: str,
        *,
        config: str = "",
        split: str = "train",
        text: str = "text",
        revision: str = "",
    ) -> None:
        self.name, self.config, self.split = name, config, split
        self.text, self.revision = text, revision
        self._rows = self._open()

    def _open(self) -> Any:
        try:
            import datasets
        except ImportError as error:
            raise InputError(
                f"data.hub={self.name!r} needs the package datasets; install it with "
                "pip install datasets, or give data.files."
            ) from error
        try:
            return datasets.load_dataset(
                self.name,
                self.config or None,
                split=self.split,
                revision=self.revision or None,
                streaming=True,
            )
        except Exception as error:  # anything from the network to a broken script
            raise InputError(
                f"data set {self.name!r} cannot be read ({type(error).__name__}: {error}); check "
                "its name, configuration and split, and the connection."
            ) from error

    def read(self, first: int, step: int) -> Iterator[tuple[int, str]]:
        """See DocumentSource."""
        rows = self._rows.skip(first) if first else self._rows
        for place, row in zip(itertools.count(first, step), itertools.islice(rows, 0, None, step)):
            if not isinstance(row.get(self.text), str):
                raise InputError(
                    f"row {place} of {self.name!r} has no text in the column {self.text!r}; set "
                    f"data.text to one of {', '.join(sorted(row))}."
                )
            yield place, row[self.text]

    def identity(self) -> dict[str, Any]:
        """Name, configuration, split, column, revision."""
        return {
            "hub": self.name,
            "config": self.config,
            "split": self.split,
            "text": self.text,
            "revision": self.revision,
        }
