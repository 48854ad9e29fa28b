"""Open-domain questions with the best passages raw and the next ones far, in every arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from foveate.errors import InputError, check_least
from foveate.measure.manifest import manifest
from foveate.measure.progress import Progress, no_progress
from foveate.measure.quality import exact_match
from foveate.tasks.open_qa import OpenQuestion, passages_text, question_prompt
from foveate.vist.eval.accuracy import accuracy_rows, accuracy_table
from foveate.vist.eval.arms import ARMS, Subjects, arm_runs
from foveate.vist.eval.context import FarContext
from foveate.vist.eval.result import Curve, EvalResult, json_ready


@dataclass(frozen=True, kw_only=True)
class QaSettings:
    """The protocol.

    Args:
        raw: the best passages, raw in the prompt of every arm.
        far: passages after them in rank, read far.
        limit: questions, None is all.
        max_new_tokens: longest answer; it ends with its line.
        arms: from ARMS; () is all.
        seed: of the choice of questions, shuffle, random tokens and bootstrap.
    """

    raw: int = 5
    far: int = 10
    limit: int | None = None
    max_new_tokens: int = 16
    arms: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        check_least(InputError, self, raw=0, far=1, max_new_tokens=1)
        if self.limit is not None and self.limit < 2:
            raise InputError(f"limit={self.limit} leaves nothing to shuffle with; use 2 or more.")


def evaluate_qa(
    questions: Sequence[OpenQuestion],
    subjects: Subjects,
    settings: QaSettings,
    *,
    facts: Mapping[str, Any] | None = None,
    progress: Progress = no_progress,
) -> EvalResult:
    """Answer the questions in all arms; exact match after the usual normalisation.

    Raises:
        InputError: a question with too few passages, fewer than two questions, an unknown arm.
    """
    need = settings.raw + settings.far
    for question in questions:
        if len(question.passages) < need:
            raise InputError(
                f"question {question.id!r} has {len(question.passages)} passages and {need} are "
                "needed; retrieve more, or lower --raw and --far."
            )
    chosen = list(questions[: settings.limit])
    names = subjects.arms(settings.arms)
    fars = [_far(question, settings, subjects) for question in chosen]
    clusters = [question.id for question in chosen]
    arms = arm_runs(names, subjects, fars, clusters, seed=settings.seed)
    said: dict[str, list[str]] = {}
    for arm in arms:
        said[arm.name] = []
        for number, (question, far) in enumerate(zip(chosen, arm.fars, strict=True)):
            said[arm.name].append(
                arm.subject.answer(far, qa_prompt(question, settings.raw), settings.max_new_tokens)
            )
            progress(arm.name, number + 1, len(chosen))
    hits = {
        name: [exact_match(a, q.answers) for a, q in zip(answers, chosen, strict=True)]
        for name, answers in said.items()
    }
    rows = accuracy_rows(
        hits,
        {arm.name: arm.entries() for arm in arms},
        [len(far.ids) for far in fars],
        clusters,
        seed=settings.seed,
        facts={},
    )
    title = f"{len(chosen)} questions, {settings.raw} passages raw, {settings.far} far"
    return EvalResult(
        task="qa",
        heading=f"Open-domain QA: {title}",
        notes=(
            "Exact match: lower case, without articles and punctuation. Every arm has the same raw "
            "passages; arms differ in what is read of the next ones. Brackets: 95 % interval, "
            "bootstrapped over questions.",
            *(f"{name}: {ARMS[name]}." for name in names),
        ),
        rows=tuple(json_ready(row) for row in rows),
        tables=(accuracy_table(title, rows),),
        curves=tuple(
            Curve(name=row["arm"], x=("exact match",), y=(row["accuracy"],)) for row in rows
        ),
        axes=("", "correct"),
        samples=tuple(
            {
                "id": question.id,
                "question": question.question,
                "accepted": list(question.answers),
                "answers": {name: answers[i] for name, answers in said.items()},
            }
            for i, question in enumerate(chosen)
        ),
        manifest=manifest(
            seed=settings.seed,
            num_questions=len(chosen),
            raw=settings.raw,
            far=settings.far,
            max_new_tokens=settings.max_new_tokens,
            **(facts or {}),
        ),
    )


def _far(question: OpenQuestion, settings: QaSettings, subjects: Subjects) -> FarContext:
    passages = question.passages[settings.raw : settings.raw + settings.far]
    return FarContext(source=subjects.raw.encode(passages_text(passages)))


def qa_prompt(question: OpenQuestion, raw: int) -> str:
    """The best passages and the question, as raw text."""
    return passages_text(question.passages[:raw]) + question_prompt(question.question)
