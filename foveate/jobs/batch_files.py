"""Files of a batch job: their names, and how they appear whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from foveate.errors import InputError
from foveate.files import open_regular, replacing
from foveate.jobs.batch_answerer import Outcome
from foveate.jobs.batch_input import InputFile, read_row
from foveate.jobs.journal import read_journal, record_at

__all__ = ["JobFiles", "JobSummary", "merge", "read_facts", "write_facts", "writing"]


@dataclass(frozen=True, kw_only=True)
class JobFiles:
    """Where a job's results go, and the folder beside them.

    Args:
        output: the answers.
        errors: lines without an answer.
    """

    output: Path
    errors: Path

    @property
    def parts(self) -> Path:
        return self.output.with_name(f"{self.output.name}.parts")

    @property
    def job(self) -> Path:
        return self.parts / "job.json"

    @property
    def model(self) -> Path:
        return self.parts / "model.json"

    @property
    def summary(self) -> Path:
        return self.parts / "summary.json"

    def journal(self, index: int) -> Path:
        return self.parts / f"journal-{index:05d}.jsonl"

    def journals(self) -> list[Path]:
        return sorted(self.parts.glob("journal-*.jsonl"))


@dataclass(frozen=True, kw_only=True)
class JobSummary:
    """A finished job.

    Args:
        lines: in all.
        errors: lines without an answer.
        before, kept: visual tokens of the other lines' images.
    """

    lines: int
    errors: int
    before: int
    kept: int

    def to_dict(self) -> dict[str, int]:
        return asdict(self)

    def __str__(self) -> str:
        text = f"{self.lines} lines: {self.lines - self.errors} answered, {self.errors} errors"
        if not self.before:
            return f"{text}; no visual tokens"
        share = 100 * self.kept / self.before
        return f"{text}; visual tokens {self.before} -> {self.kept} ({share:.1f} %)"


def merge(questions: InputFile, files: JobFiles) -> JobSummary:
    """Write errors, then output, from the journals, in the order of the input.

    Raises:
        InputError: lines are missing, or a file cannot be written.
    """
    found: dict[int, tuple[Path, int]] = {}
    for path in files.journals():
        for offset, record in read_journal(path):
            found.setdefault(record["line"], (path, offset))
    places = questions.places(0, len(questions))
    missing = [place.number for place in places if place.number not in found]
    if missing:
        raise InputError(
            f"{len(missing)} lines have no record in {files.parts} (first: line {missing[0]}); "
            "check that all machines share the folder, and run the same again."
        )
    errors = before = kept = 0
    with ExitStack() as stack:
        journals = {path: stack.enter_context(open_regular(path)) for path in files.journals()}
        source = stack.enter_context(questions.path.open("rb"))
        # Closed in reverse: the errors are there before the output is.
        good = stack.enter_context(_replacing(files.output))
        bad = stack.enter_context(_replacing(files.errors))
        for place in places:
            path, offset = found[place.number]
            outcome = Outcome(**record_at(journals[path], offset))
            source.seek(place.offset)
            line = source.readline()
            if outcome.error:
                errors += 1
                bad.write(_error_line(line, outcome))
            else:
                good.write(_answer_line(line, outcome))
            before += outcome.before
            kept += outcome.kept
    return JobSummary(lines=len(places), errors=errors, before=before, kept=kept)


def read_facts(path: Path) -> dict[str, Any]:
    """The object of a file that `write_facts` wrote. Raises InputError if it is none."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"{path} cannot be used ({error}); delete the folder {path.parent.name} and the "
            "output to start anew."
        ) from error


def write_facts(path: Path, facts: Mapping[str, Any]) -> None:
    """Write or replace a JSON file. Raises InputError if that is impossible."""
    with _replacing(path) as file:
        file.write(json.dumps(dict(facts), indent=2).encode() + b"\n")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Errors of the file system as InputErrors about a path."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({error.strerror}); make room, or choose another --output."
        ) from error


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """As `replacing`, with errors that name the path."""
    with writing(path), replacing(path) as file:
        yield file


def _answer_line(line: bytes, outcome: Outcome) -> bytes:
    """The input's own text with two fields more: numbers and escapes stay as they were written."""
    text, _ = read_row(line)
    tokens = {"before": outcome.before, "kept": outcome.kept}
    added = json.dumps({"answer": outcome.answer, "tokens": tokens}, ensure_ascii=False)
    return f"{text[:-1].rstrip()}, {added[1:]}\n".encode()


def _error_line(line: bytes, outcome: Outcome) -> bytes:
    record: dict[str, Any] = {"line": outcome.line, "error": outcome.error}
    with suppress(ValueError, RecursionError, KeyError, TypeError):  # bad enough to have none
        record["id"] = json.loads(line)["id"]
    return json.dumps(record).encode() + b"\n"
