"""BatchJob: a file of questions in, a file of answers out, over any number of runs and processes.

Files. Beside OUTPUT lies the folder OUTPUT.parts:

- `job.json`: the settings that answers depend on, and a hash of the input. Written first;
  whoever comes later with others is refused.
- `model.json`: what was loaded: a hash of the weights, dtype, versions. The first to load writes
  it, later ones are held to it.
- `journal-RANK.jsonl`: what became of lines, one record a line, in the order of doing; one file a
  process (see journal.py: one write and one fsync a batch, a torn end is cut off).
- `summary.json`: written after OUTPUT. Where it is, the job is done and the journals are gone.

Who does what. The lines that are not empty are cut into batches by their place in the file, and
process r of n does every n-th batch from r on. A batch is done if every line of it has a record in
any journal; else it is answered whole, and only lines without a record get one. So batches are the
same ones in any number of processes and after any number of kills, and answers cannot differ by how
rows are padded together. A line has at most one record: journals are locked, and the share of one
process never overlaps that of another.

The end. When all processes are done, the first one writes the errors, then the output, each in the
order of the input: a draft, fsync, rename. Then `summary.json`, then it deletes the journals. A
kill in between leaves journals that are whole, and the next run writes the same bytes again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from foveate.errors import InputError
from foveate.files import refuse_link
from foveate.jobs.batch_files import (
    JobFiles,
    JobSummary,
    merge,
    read_facts,
    write_facts,
    writing,
)
from foveate.jobs.batch_input import InputFile, LinePlace
from foveate.jobs.journal import Journal, read_journal
from foveate.jobs.outcome import Outcome
from foveate.measure.progress import Progress, no_progress

__all__ = ["Answers", "BatchJob"]

# A back end: batches in, what became of each out, in any order.
Answers = Callable[[Iterator[list[LinePlace]]], Iterator[list[Outcome]]]


class BatchJob:
    """One input, one output, and one process's share of the work between them.

    Args:
        questions: the input.
        files: where results go.
        facts: settings that answers depend on, JSON-ready.
        batch_size: lines of a batch.
        index, count: this process does every `count`-th batch from `index` on.

    Raises:
        InputError: input, output and errors are not three files.
    """

    def __init__(
        self,
        questions: InputFile,
        files: JobFiles,
        facts: Mapping[str, Any],
        *,
        batch_size: int,
        index: int = 0,
        count: int = 1,
    ) -> None:
        self.questions = questions
        self.files = files
        self.batch_size = batch_size
        self.index = index
        self.count = count
        self.facts = json.loads(json.dumps({**facts, "input": questions.fingerprint}))
        names = [questions.source, files.output, files.errors]
        if len({path.resolve() for path in names}) < len(names):
            raise InputError(
                f"got {', '.join(map(str, names))} as input, output and errors; name three files."
            )

    def finished(self) -> JobSummary | None:
        """What an earlier run of just this job came to, if its output is there."""
        files = self.files
        if not (files.output.exists() and files.summary.exists()):
            return None
        is_this = read_facts(files.job) == self.facts
        return JobSummary(**read_facts(files.summary)) if is_this else None

    def begin(self) -> Journal:
        """Claim the output, or go on with it; for the first process. Returns its journal.

        Raises:
            InputError: output or parts are of something else, or another run is at work.
        """
        files = self.files
        refuse_link(files.job)
        is_new = not files.job.exists()
        taken = [path for path in (files.output, files.errors) if path.exists()]
        if is_new and taken:
            raise InputError(
                f"{taken[0]} exists and is not of a job that could go on ({files.job} is "
                "missing); choose another --output or --errors, or delete it."
            )
        refuse_link(files.parts)
        with writing(files.parts):
            files.parts.mkdir(parents=True, exist_ok=True)
        journal = Journal(files.journal(self.index))
        try:
            # A job is done anew, with any settings, if it was finished and its output deleted, or
            # if nothing was answered yet: its model or method may have been refused.
            is_over = files.summary.exists() or not self._done()
            if is_new or (is_over and not files.output.exists()):
                with writing(files.parts):
                    for path in (*files.journals(), files.model):
                        if path != journal.path:
                            path.unlink(missing_ok=True)
                    journal.empty()
                write_facts(files.job, self.facts)
                files.summary.unlink(missing_ok=True)
            self._agree(files.job, self.facts)
        except BaseException:
            journal.close()
            raise
        return journal

    def join(self) -> Journal:
        """The journal of another than the first process, which has begun.

        Raises:
            InputError: the folder is not the first one's.
        """
        self._agree(self.files.job, self.facts)
        return Journal(self.files.journal(self.index))

    def check_model(self, facts: Mapping[str, Any]) -> None:
        """Hold the loaded model to that of earlier runs; the first process writes it down.

        Raises:
            InputError: it is another one.
        """
        if self.index == 0 and not self.files.model.exists():
            write_facts(self.files.model, facts)
        self._agree(self.files.model, facts)

    def has_work(self) -> bool:
        """Whether this process has anything left to do."""
        done = self._done()
        return any(place.number not in done for batch in self._share() for place in batch)

    def work(self, answers: Answers, journal: Journal, progress: Progress = no_progress) -> None:
        """Answer what is left of the share; a batch is on the disk before the next is counted."""
        done = self._done()
        ready = total = 0
        for batch in self._share():
            total += len(batch)
            ready += sum(place.number in done for place in batch)
        progress("Lines", ready, total)
        left = (b for b in self._share() if any(place.number not in done for place in b))
        for outcomes in answers(left):
            new = [outcome for outcome in outcomes if outcome.line not in done]
            journal.append([outcome.to_dict() for outcome in new])
            ready += len(new)
            progress("Lines", ready, total)

    def finish(self) -> JobSummary:
        """Write errors and output, for the first process when all are done.

        Raises:
            InputError: lines are missing, or a file cannot be written.
        """
        summary = merge(self.questions, self.files, model=str(self.facts["model"]))
        write_facts(self.files.summary, summary.to_dict())
        with writing(self.files.parts):
            for path in self.files.journals():
                path.unlink()
            self.files.forget_input()
        return summary

    def _done(self) -> set[int]:
        """Numbers of the lines that have a record."""
        journals = self.files.journals()
        return {int(record["line"]) for path in journals for _, record in read_journal(path)}

    def _share(self) -> Iterator[list[LinePlace]]:
        step = self.batch_size * self.count
        for start in range(self.batch_size * self.index, len(self.questions), step):
            yield self.questions.places(start, start + self.batch_size)

    def _agree(self, path: Path, facts: Mapping[str, Any]) -> None:
        held = read_facts(path)
        odd = sorted(key for key in facts if held.get(key) != facts[key])
        if odd:
            raise InputError(
                f"{path} is of another {', '.join(odd)}; restore the options, choose another "
                f"--output, or delete {self.files.output.name} and the folder "
                f"{self.files.parts.name} to start anew."
            )
