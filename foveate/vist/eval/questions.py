"""Real questions about long documents, with the right passage among others, in every arm."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from foveate.errors import InputError, check_least
from foveate.measure.answer_overlap import answer_f1, contains_answer
from foveate.measure.manifest import manifest
from foveate.measure.parts import Part, Parts
from foveate.measure.progress import Progress, no_progress
from foveate.measure.quality import Interval, accuracy, clustered_mean, paired_difference
from foveate.tasks.long_questions import PassageDocument
from foveate.vist.eval.arms import Subjects, facts_of, shuffled_name
from foveate.vist.eval.budget_arms import (
    BUDGET_ARMS,
    at_hand,
    budget_names,
    budget_view,
    check_budgets,
    reader_of,
)
from foveate.vist.eval.context import FarContext
from foveate.vist.eval.result import Curve, EvalResult, Table, json_ready, shown_percent

__all__ = ["QUESTION_ARMS", "QuestionSettings", "evaluate_questions", "question_arms"]

# Arms with a budget run once for each share of the document's tokens: "bm25@0.1".
QUESTION_ARMS = {
    "none": "nothing",
    "raw": "the whole document as raw text",
    "raw-shuffled": "another document as raw text",
    "passage": "the right passage alone, raw: what a perfect choice would hand over",
    "vist": "its latents, made before the question is known",
    "vist-shuffled": "latents of another document",
    **BUDGET_ARMS,
}
COLUMNS = ("arm", "entries", "share", "contained %", "F1 %", "minus raw", "minus bm25",
           "minus shuffled")  # fmt: skip
Prompts = Callable[[str], str]


@dataclass(frozen=True, kw_only=True)
class QuestionSettings:
    """The protocol.

    Args:
        budgets: entries, as shares of the document's tokens, of arms with a budget.
        rival_budgets: further ones of bm25, so that it is shown at its own best.
        max_new_tokens: longest answer; it ends with its line.
        arms: from QUESTION_ARMS; () is all there are models for.
        seed: of random segments, partners and bootstrap.
    """

    budgets: tuple[float, ...] = (0.1, 0.25)
    rival_budgets: tuple[float, ...] = (0.05, 0.5)
    max_new_tokens: int = 24
    arms: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        check_least(InputError, self, max_new_tokens=1)
        check_budgets((*self.budgets, *self.rival_budgets))
        if not self.budgets:
            raise InputError("no budgets; give at least one, e.g. --budgets 0.1,0.25.")


def question_arms(settings: QuestionSettings, subjects: Subjects) -> tuple[str, ...]:
    """Arms in their order, those with a budget as "arm@share". "none" and "raw" always run.

    Raises:
        InputError: an unknown arm, or one without its model.
    """
    unknown = sorted(set(settings.arms) - set(QUESTION_ARMS))
    if unknown:
        raise InputError(
            f"unknown arms {', '.join(unknown)}; choose from {', '.join(QUESTION_ARMS)}."
        )
    can_run = {name: reader_of(name, subjects) is not None for name in QUESTION_ARMS}
    missing = [name for name in settings.arms if not can_run[name]]
    if missing:
        raise InputError(f"this model cannot run the arms {', '.join(missing)}; leave them out.")
    wanted = set(settings.arms) | {"none", "raw"} if settings.arms else set(QUESTION_ARMS)
    names: list[str] = []
    for name in QUESTION_ARMS:
        if name not in wanted or not can_run[name]:
            continue
        shares = settings.budgets + (settings.rival_budgets if name == "bm25" else ())
        names += budget_names([name], shares) if name in BUDGET_ARMS else [name]
    return tuple(names)


def evaluate_questions(
    documents: Mapping[str, Sequence[PassageDocument]],
    subjects: Subjects,
    prompt_of: Prompts,
    settings: QuestionSettings,
    *,
    facts: Mapping[str, Any] | None = None,
    progress: Progress = no_progress,
    parts: Parts | None = None,
) -> EvalResult | None:
    """Ask every document its questions, in all arms.

    Args:
        documents: by name of their length, such as "1000"; at least two of each, the shuffled arms
            read the next one.
        subjects: the models.
        prompt_of: a question -> the raw text after the document.
        settings: the protocol.
        facts: for the manifest.
        progress: is told of every document.
        parts: where each document and arm is kept as soon as it is done, and which of them this
            process does; None keeps nothing.

    Returns:
        the tables; None where `parts` does a share only.

    Raises:
        InputError: an unknown arm, a single document, or parts of another protocol.
    """
    names = question_arms(settings, subjects)
    parts = parts or Parts()
    for length, found in documents.items():
        if len(found) < 2:
            raise InputError(
                f"{len(found)} document of {length} tokens leaves nothing to shuffle with; raise "
                "--limit."
            )
    jobs = [
        (length, number, name)
        for length, found in documents.items()
        for name in names
        for number in range(len(found))
    ]

    def part_of(job: tuple[str, int, str]) -> Part:
        length, number, name = job
        own = documents[length]
        return Part(
            name=f"{length}-{number}-{name}",
            told=f"{length} tokens, {name}",
            wanted=_wanted(own[number], name, settings, facts or {}),
            make=partial(_ask, own, number, name, subjects, prompt_of, settings),
        )

    made = parts.make_all(jobs, part_of, progress)
    if made is None:
        return None
    return _result(documents, names, made, settings, facts or {})


def _wanted(
    document: PassageDocument, name: str, settings: QuestionSettings, facts: Mapping[str, Any]
) -> dict[str, Any]:
    """What a part depends on."""
    return {
        **facts_of(name, facts),
        "max_new_tokens": settings.max_new_tokens,
        "seed": settings.seed,
        "text": hashlib.sha256(document.text.encode()).hexdigest(),
        "questions": [[q.id, q.question] for q in document.questions],
    }


def _partner(documents: Sequence[PassageDocument], number: int) -> PassageDocument:
    """Another document without the passages asked about: the closest before, else after."""
    asked = {q.passage for q in documents[number].questions}
    order = [*documents[:number][::-1], *documents[number + 1 :]]
    for other in order:
        if not asked & set(other.passages):
            return other
    raise InputError(
        "every other document holds a passage asked about, so none is left to shuffle with; leave "
        "the shuffled arms out, or shorten --tokens."
    )


def _ask(
    documents: Sequence[PassageDocument],
    number: int,
    name: str,
    subjects: Subjects,
    prompt_of: Prompts,
    settings: QuestionSettings,
) -> dict[str, Any]:
    """What one arm answers to the questions of one document, JSON-ready."""
    document = documents[number]
    subject = reader_of(name, subjects)
    assert subject is not None
    fars = _views(name, documents, number, subjects, settings.seed)
    said = subject.answers(
        fars, [prompt_of(q.question) for q in document.questions], settings.max_new_tokens
    )
    return {
        "tokens": len(subjects.raw.encode(document.text)),
        "entries": [subject.num_entries(far) if far is not None else 0 for far in fars],
        "answers": said,
    }


def _views(
    name: str, documents: Sequence[PassageDocument], number: int, subjects: Subjects, seed: int
) -> list[FarContext | None]:
    """What is far for each question of a document."""
    questions, raw = documents[number].questions, subjects.raw
    if name == "none":
        return [None] * len(questions)
    if name == "passage":
        return [FarContext(source=raw.encode(q.passage)) for q in questions]
    is_shuffled = "-shuffled" in name
    document = _partner(documents, number) if is_shuffled else documents[number]
    far = at_hand(name, FarContext(source=raw.encode(document.text)), subjects)
    generator = np.random.default_rng([seed, number])
    return [budget_view(name, far, q.question, generator) for q in questions]


def _result(
    documents: Mapping[str, Sequence[PassageDocument]],
    names: Sequence[str],
    made: Mapping[tuple[str, int, str], Mapping[str, Any]],
    settings: QuestionSettings,
    facts: Mapping[str, Any],
) -> EvalResult:
    rows: list[dict[str, Any]] = []
    samples: list[dict[str, Any]] = []
    tables = []
    for length, found in documents.items():
        asked = [(n, i, q) for n, d in enumerate(found) for i, q in enumerate(d.questions)]
        said = {a: [made[length, n, a]["answers"][i] for n, i, _ in asked] for a in names}
        entries = {a: [made[length, n, a]["entries"][i] for n, i, _ in asked] for a in names}
        tokens = [made[length, n, "raw"]["tokens"] for n, _, _ in asked]
        own = _rows(said, entries, tokens, asked, settings.seed)
        rows += [{"length": length, **row} for row in own]
        tables.append(
            Table(
                title=f"{length} tokens: {len(asked)} questions in {len(found)} documents",
                columns=COLUMNS,
                rows=tuple(_cells(row) for row in own),
            )
        )
        samples += [
            {
                "length": length,
                "document": n,
                "id": q.id,
                "question": q.question,
                "accepted": list(q.answers),
                "answers": {a: said[a][at] for a in names},
                "entries": {a: entries[a][at] for a in names},
            }
            for at, (n, _, q) in enumerate(asked)
        ]
    arms = list(dict.fromkeys(name.split("@")[0] for name in names))
    return EvalResult(
        task="questions",
        heading="Real questions about long documents",
        notes=(
            "A document holds the passages that the questions are about among passages of other "
            "articles. An answer counts (contained) where its first line holds an accepted answer, "
            "word for word after the usual normalisation. Entries: raw tokens and latents that the "
            "model reads of the document; share: of the document's tokens. minus raw, bm25, "
            "shuffled: points of contained, paired; bm25 at the same budget, for arms without one "
            "at its best. Brackets: 95 % interval, bootstrapped over passages.",
            *(f"{arm}: {QUESTION_ARMS[arm]}." for arm in arms),
        ),
        rows=tuple(json_ready(row) for row in rows),
        tables=tuple(tables),
        curves=tuple(
            Curve(
                name=name,
                x=tuple(row["length"] for row in rows if row["arm"] == name),
                y=tuple(row["contained"] for row in rows if row["arm"] == name),
            )
            for name in names
        ),
        axes=("tokens", "answers contained"),
        samples=tuple(samples),
        manifest=manifest(
            seed=settings.seed,
            budgets=list(settings.budgets),
            rival_budgets=list(settings.rival_budgets),
            max_new_tokens=settings.max_new_tokens,
            **facts,
        ),
    )


def _rows(
    said: Mapping[str, Sequence[str]],
    entries: Mapping[str, Sequence[int]],
    tokens: Sequence[int],
    asked: Sequence[tuple[int, int, Any]],
    seed: int,
) -> list[dict[str, Any]]:
    questions = [q for _, _, q in asked]
    clusters = [q.passage for q in questions]
    hits = {
        name: [contains_answer(a, q.answers) for a, q in zip(answers, questions, strict=True)]
        for name, answers in said.items()
    }
    rivals = [name for name in hits if name.startswith("bm25@")]
    best = max(rivals, key=lambda name: sum(hits[name]), default=None)

    def minus(name: str, other: str | None) -> Interval | None:
        if other is None or other not in hits or other == name:
            return None
        return paired_difference(hits[name], hits[other], clusters, seed=seed)

    rows = []
    for name in said:
        arm, at, share = name.partition("@")
        f1 = [answer_f1(a, q.answers) for a, q in zip(said[name], questions, strict=True)]
        rival = f"bm25@{share}" if at else best
        rows.append(
            {
                "arm": name,
                "questions": len(questions),
                "tokens": float(np.mean(tokens)),
                "entries": float(np.mean(entries[name])),
                "share": float(np.mean(entries[name]) / np.mean(tokens)),
                "contained": accuracy(hits[name], clusters, seed=seed),
                "f1": clustered_mean(f1, clusters, seed=seed),
                "minus_raw": minus(name, "raw"),
                "minus_bm25": minus(name, rival if arm != "bm25" else None),
                "minus_best_bm25": minus(name, best),
                "best_bm25": best,
                "minus_shuffled": minus(name, shuffled_name(name)),
            }
        )
    return rows


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        row["arm"],
        f"{row['entries']:.0f}",
        f"{row['share']:.2f}",
        shown_percent(row["contained"]),
        f"{100 * row['f1'].value:.1f}",
        shown_percent(row["minus_raw"], signed=True),
        shown_percent(row["minus_bm25"], signed=True),
        shown_percent(row["minus_shuffled"], signed=True),
    )
