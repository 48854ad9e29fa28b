"""Long evaluations in parts: each is kept as soon as it is done, and processes share them out."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from foveate.errors import InputError
from foveate.files import replacing
from foveate.measure.progress import Progress

__all__ = ["Part", "Parts"]

Job = TypeVar("Job")


@dataclass(frozen=True, kw_only=True)
class Part:
    """A piece of an evaluation.

    Args:
        name: of its file.
        told: what its progress is called.
        wanted: settings that it depends on, JSON-ready.
        make: gives it, JSON-ready.
    """

    name: str
    told: str
    wanted: Mapping[str, Any]
    make: Callable[[], dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Where the parts of an evaluation lie, and which of them this process does.

    Args:
        folder: of the files; None keeps nothing.
        index, count: this process does every `count`-th part from `index` on.

    Raises:
        InputError: no such share, or a share that would be lost.
    """

    folder: Path | None = None
    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise InputError(
                f"share {self.index}/{self.count} does not exist; use 0/{self.count} to "
                f"{max(0, self.count - 1)}/{self.count}."
            )
        if self.is_share and self.folder is None:
            raise InputError("a share of an evaluation needs a folder to keep its parts in.")

    @property
    def is_share(self) -> bool:
        """Whether other processes do the rest."""
        return self.count > 1

    def share(self, jobs: Sequence[Job]) -> Sequence[Job]:
        """Of all jobs those that this process does."""
        return jobs[self.index :: self.count]

    def has(self, name: str) -> bool:
        """Whether a part lies in its file already."""
        return self.folder is not None and (self.folder / f"{name}.json").exists()

    def make_all(
        self, jobs: Sequence[Job], part_of: Callable[[Job], Part], progress: Progress
    ) -> dict[Job, dict[str, Any]] | None:
        """The parts of all jobs; None where other processes do the rest of them.

        Args:
            jobs: all of them, in their order.
            part_of: what a job is.
            progress: is told of every job of this process.

        Raises:
            InputError: see `kept`.
        """
        made: dict[Job, dict[str, Any]] = {}
        mine = self.share(jobs)
        for done, job in enumerate(mine, 1):
            part = part_of(job)
            made[job] = self.kept(part.name, part.wanted, part.make)
            progress(part.told, done, len(mine))
        return None if self.is_share else made

    def kept(
        self, name: str, wanted: Mapping[str, Any], make: Callable[[], dict[str, Any]]
    ) -> dict[str, Any]:
        """A part from its file, or made and written now; a file appears whole or not at all.

        Args:
            name: of the file.
            wanted: settings that the part depends on, JSON-ready.
            make: gives the part, JSON-ready.

        Raises:
            InputError: the file is of other settings, or cannot be read or written.
        """
        if self.folder is None:
            return make()
        file = self.folder / f"{name}.json"
        wanted = json.loads(json.dumps(dict(wanted)))  # tuples are lists in a file
        if not file.exists():
            # Outside of the block below: its errors are the evaluation's, not the file's.
            part = make()
            _write(file, {"settings": wanted, "part": part})
            return part
        try:
            held = json.loads(file.read_text(encoding="utf-8"))
            settings, kept = held["settings"], dict(held["part"])
        except (OSError, json.JSONDecodeError, KeyError) as error:
            raise InputError(f"{file} cannot be used ({error}); delete it.") from error
        odd = sorted(key for key in wanted if settings.get(key) != wanted[key])
        if odd:
            raise InputError(
                f"{file} was made with another {', '.join(odd)}; restore the options, choose "
                "another --output, or delete the folder."
            )
        return kept


def _write(file: Path, content: Mapping[str, Any]) -> None:
    try:
        with replacing(file, mark=f".{os.getpid()}") as draft:
            draft.write(f"{json.dumps(content)}\n".encode())
    except OSError as error:
        raise InputError(f"{file} cannot be written ({error}); choose another --output.") from error
