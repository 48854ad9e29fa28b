"""Files of a batch job: their names, and how they appear whole or not at all."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from foveate.core.report import counted
from foveate.errors import InputError
from foveate.files import open_regular, replacing
from foveate.jobs.batch_input import InputFile, read_row
from foveate.jobs.journal import read_journal, record_at
from foveate.jobs.openai_batch import error_of, is_openai_row, result_of
from foveate.jobs.outcome import Outcome

__all__ = ["JobFiles", "JobSummary", "merge", "read_facts", "write_facts", "writing"]

UNKNOWN_WORDS = 20  # of the summary


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

    def forget_input(self) -> None:
        """Delete what input_spool.py wrote, for a job that is done."""
        for path in self.parts.glob("input-*.jsonl"):
            path.unlink(missing_ok=True)


@dataclass(frozen=True, kw_only=True)
class JobSummary:
    """A finished job.

    Args:
        lines: in all.
        errors: lines without an answer.
        before, kept: visual tokens of the other lines' images.
        first_error: the first reason; "" without errors.
        unknown_lines: lines with words that the model's tokenizer cannot write.
        unknown: some of these words, the most frequent first.
        repeated_ids: lines of OpenAI's format whose `custom_id` an earlier line has too.
    """

    lines: int
    errors: int
    before: int
    kept: int
    first_error: str = ""
    unknown_lines: int = 0
    unknown: list[str] = field(default_factory=list)
    repeated_ids: int = 0

    @property
    def all_failed(self) -> bool:
        return self.errors == self.lines

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        text = f"{self.lines} lines: {self.lines - self.errors} answered, {self.errors} errors"
        if self.before:
            share = 100 * self.kept / self.before
            text = f"{text}; visual tokens {self.before} -> {self.kept} ({share:.1f} %)"
        else:
            text = f"{text}; no visual tokens"
        if self.unknown_lines:
            text += (
                f"\n{counted(self.unknown_lines, 'line')} with words that the model does not know "
                f"({', '.join(self.unknown)}); what it says to them may be meaningless"
            )
        if self.repeated_ids:
            text += (
                f"\n{counted(self.repeated_ids, 'line')} with a custom_id that an earlier line has "
                "too; tell their results apart by request_id, which has the number of the line"
            )
        if self.all_failed:
            text += f"\nno line was answered; the first: {self.first_error}"
        return text


def merge(questions: InputFile, files: JobFiles, *, model: str) -> JobSummary:
    """Write errors, then output, from the journals, in the order of the input.

    Args:
        questions: the input.
        files: where all lies.
        model: what results in OpenAI's format call it.

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
    errors = before = kept = unknown_lines = repeated_ids = 0
    ids: set[str] = set()
    first_error = ""
    unknown: Counter[str] = Counter()
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
                first_error = first_error or f"line {outcome.line}: {outcome.error}"
                bad.write(_error_line(line, outcome))
            else:
                good.write(_answer_line(line, outcome, model))
            given = _custom_id(line)
            repeated_ids += given in ids
            ids |= {given} - {""}
            before += outcome.before
            kept += outcome.kept
            unknown_lines += bool(outcome.unknown)
            unknown.update(outcome.unknown)
    # Of words that are as frequent, the first ones: an order that kills do not change.
    return JobSummary(
        lines=len(places),
        errors=errors,
        before=before,
        kept=kept,
        first_error=first_error,
        unknown_lines=unknown_lines,
        unknown=[word for word, _ in unknown.most_common(UNKNOWN_WORDS)],
        repeated_ids=repeated_ids,
    )


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


def _answer_line(line: bytes, outcome: Outcome, model: str) -> bytes:
    """The input's own text with two fields more: numbers and escapes stay as they were written.

    In OpenAI's format: the result alone.
    """
    text, row = read_row(line)
    if is_openai_row(row):
        return _json_line(result_of(row, outcome, model))
    tokens = {"before": outcome.before, "kept": outcome.kept}
    added = json.dumps({"answer": outcome.answer, "tokens": tokens}, ensure_ascii=False)
    return f"{text[:-1].rstrip()}, {added[1:]}\n".encode()


def _error_line(line: bytes, outcome: Outcome) -> bytes:
    record: dict[str, Any] = {"line": outcome.line, "error": outcome.error}
    with suppress(ValueError, RecursionError, KeyError, TypeError):  # bad enough to have none
        row = json.loads(line)
        if isinstance(row, dict) and is_openai_row(row):
            return _json_line(error_of(row, outcome))
        return _json_line({**record, "id": row["id"]})
    return _json_line(record)  # an id may be NaN too, which JSON has no number for


def _custom_id(line: bytes) -> str:
    """What a client tells a result in OpenAI's format by; "" of other lines."""
    if b"custom_id" not in line:  # images make lines long
        return ""
    with suppress(InputError):
        _, row = read_row(line)
        if is_openai_row(row) and isinstance(row.get("custom_id"), str):
            return str(row["custom_id"])
    return ""


def _json_line(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, allow_nan=False).encode() + b"\n"
