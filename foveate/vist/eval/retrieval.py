"""Does a question find the segment that answers it? Recall at a share of a document's segments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foveate.errors import InputError
from foveate.measure.manifest import manifest
from foveate.measure.progress import Progress, no_progress
from foveate.measure.quality import accuracy, paired_difference
from foveate.tasks.passages import PlacedDocument, PlacedQuestion
from foveate.vist.eval.result import Curve, EvalResult, Table, json_ready, shown_percent
from foveate.vist.eval.retrieval_sets import KINDS
from foveate.vist.eval.segment_scores import SCORERS, Scorers, SegmentedText

__all__ = ["RetrievalSettings", "evaluate_retrieval", "is_found"]


@dataclass(frozen=True, kw_only=True)
class RetrievalSettings:
    """The protocol.

    Args:
        shares: of a document's segments that may be looked at.
        limit: questions of a kind, None is all.
        arms: names of scorers; () is all.
        against: arms that the others are compared with, question by question.
        seed: of the bootstrap.

    Raises:
        InputError: a share is not above 0 and at most 1.
    """

    shares: tuple[float, ...] = (0.01, 0.05, 0.1)
    limit: int | None = None
    arms: tuple[str, ...] = ()
    against: tuple[str, ...] = ("bm25",)
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.shares or not all(0 < share <= 1 for share in self.shares):
            raise InputError(f"shares={self.shares}; use numbers above 0 and at most 1.")


def evaluate_retrieval(
    kinds: Mapping[str, Sequence[PlacedDocument]],
    scorers: Scorers,
    settings: RetrievalSettings,
    *,
    facts: Mapping[str, Any] | None = None,
    progress: Progress = no_progress,
) -> EvalResult:
    """Rank the segments of each document for each question, in all arms.

    Args:
        kinds: documents by the kind of their questions.
        scorers: see there.
        settings: the protocol.
        facts: for the manifest.

    Raises:
        InputError: an unknown arm, or a kind without questions.
    """
    names = settings.arms or scorers.names
    unknown = sorted({*names, *settings.against} - set(scorers.names))
    if unknown:
        raise InputError(f"unknown arms {', '.join(unknown)}; use {', '.join(scorers.names)}.")
    rows: list[dict[str, Any]] = []
    samples: list[dict[str, Any]] = []
    tables: list[Table] = []
    curves: list[Curve] = []
    for kind, documents in kinds.items():
        found, asked, sizes, tokens = _ranked(kind, documents, scorers, names, settings, progress)
        clusters = [question.cluster for question in asked]
        for name in names:
            for number, share in enumerate(settings.shares):
                hits = [place[number] for place in found[name]]
                rows.append(
                    {
                        "kind": kind,
                        "arm": name,
                        "share": share,
                        "questions": len(hits),
                        "segments": float(np.mean(sizes)),
                        "tokens": float(np.mean(tokens)),
                        "recall": accuracy(hits, clusters, seed=settings.seed),
                        **{
                            f"minus_{rival}": paired_difference(
                                hits,
                                [place[number] for place in found[rival]],
                                clusters,
                                seed=settings.seed,
                            )
                            for rival in settings.against
                            if rival in names and rival != name
                        },
                    }
                )
        tables.append(_table(kind, names, rows, settings))
        own = [row for row in rows if row["kind"] == kind]
        if kind == next(iter(kinds)):
            curves = [
                Curve(name=name, x=settings.shares,
                      y=tuple(row["recall"] for row in own if row["arm"] == name))
                for name in names
            ]  # fmt: skip
        samples += [
            {"kind": kind, "id": q.id, "found": {name: found[name][i] for name in names}}
            for i, q in enumerate(asked)
        ]  # fmt: skip
    return EvalResult(
        task="retrieval",
        heading="Which segment answers the question?",
        notes=(
            "Recall: whether a segment that holds the answer is among the best 1 %, 5 % ... of the "
            "document's segments (at least one segment). Brackets: 95 % interval, bootstrapped "
            "over clusters (articles; for meanings, words).",
            *(f"Questions {kind}: {KINDS[kind]}." for kind in kinds if kind in KINDS),
            *(f"{name}: {SCORERS[name]}." for name in names if name in SCORERS),
            *(
                f"{name}: a head trained the same, of another masking."
                for name in names
                if name not in SCORERS
            ),
        ),
        rows=tuple(json_ready(row) for row in rows),
        tables=tuple(tables),
        curves=tuple(curves),
        axes=(f"share of segments ({next(iter(kinds))})", "recall"),
        samples=tuple(samples),
        manifest=manifest(
            seed=settings.seed, shares=list(settings.shares), layer=scorers.layer, **(facts or {})
        ),
    )


def is_found(
    scores: NDArray[np.float64], right: Sequence[int], shares: Sequence[float]
) -> list[bool]:
    """Whether any right segment is among the best of each share; ties go to the earlier segment.

    Example:
        >>> is_found(np.array([0.1, 0.9, 0.5, 0.2]), [2], [0.25, 0.5])
        [False, True]
    """
    order = np.argsort(-scores, kind="stable")
    rank = int(min(np.flatnonzero(np.isin(order, right))))
    return [rank < max(1, round(share * len(scores))) for share in shares]


def _ranked(
    kind: str,
    documents: Sequence[PlacedDocument],
    scorers: Scorers,
    names: Sequence[str],
    settings: RetrievalSettings,
    progress: Progress,
) -> tuple[dict[str, list[list[bool]]], list[PlacedQuestion], list[int], list[int]]:
    """arm -> what was found of each question, the questions, segments and tokens of documents."""
    found: dict[str, list[list[bool]]] = {name: [] for name in names}
    asked: list[PlacedQuestion] = []
    sizes, tokens = [], []
    for number, document in enumerate(documents):
        text = SegmentedText.of(document.text, scorers.tokenizer)
        left = None if settings.limit is None else settings.limit - len(asked)
        questions = document.questions[:left]
        if questions:
            asked += questions
            sizes.append(len(text))
            tokens.append(len(text.ids))
            scores = scorers.scores(text, [q.question for q in questions], names)
            for name in names:
                for question, row in zip(questions, scores[name], strict=True):
                    right = text.holding(question.spans)
                    found[name].append(is_found(row, right, settings.shares))
        progress(kind, number + 1, len(documents))
    if not asked:
        raise InputError(f"there are no questions of the kind {kind!r}; leave it out.")
    return found, asked, sizes, tokens


def _table(
    kind: str,
    names: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    settings: RetrievalSettings,
) -> Table:
    own = {(row["arm"], row["share"]): row for row in rows if row["kind"] == kind}
    first = own[names[0], settings.shares[0]]
    middle = settings.shares[len(settings.shares) // 2]
    return Table(
        title=f"{kind}: {first['questions']} questions, documents of {first['segments']:.0f} "
        f"segments and {first['tokens']:.0f} tokens",
        columns=(
            "arm",
            *(f"recall at {100 * share:g} %" for share in settings.shares),
            *(f"minus {rival} at {100 * middle:g} %" for rival in settings.against),
        ),
        rows=tuple(
            (
                name,
                *(shown_percent(own[name, share]["recall"]) for share in settings.shares),
                *(
                    shown_percent(own[name, middle].get(f"minus_{rival}"), signed=True)
                    for rival in settings.against
                ),
            )
            for name in names
        ),
    )
