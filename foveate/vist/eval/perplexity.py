"""Loss of the next tokens of held-out documents, with the far context read in every arm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from foveate.measure.manifest import manifest
from foveate.measure.progress import Progress, no_progress
from foveate.measure.quality import Interval, clustered_mean
from foveate.tasks.documents import Document
from foveate.vist.eval.arms import ARMS, ArmRun, Subjects, arm_runs
from foveate.vist.eval.perplexity_targets import PerplexitySettings, Target, choose_targets
from foveate.vist.eval.result import (
    Curve,
    EvalResult,
    Table,
    json_ready,
    shown,
    shown_ratio,
)

TOGETHER = "all"
COLUMNS = ("arm", "entries", "ratio", "nats/token", "gain over none", "minus shuffled")


def evaluate_perplexity(
    documents: Sequence[Document],
    subjects: Subjects,
    settings: PerplexitySettings,
    *,
    facts: dict[str, Any] | None = None,
    progress: Progress = no_progress,
) -> EvalResult:
    """Score the targets of all documents in all arms, at every context length.

    Raises:
        InputError: no document is long enough, a domain with one document only, an unknown arm.
    """
    names = subjects.arms(settings.arms)
    targets = choose_targets(documents, subjects.raw, settings)
    domains = list(dict.fromkeys(target.document.domain for target in targets))
    rows: list[dict[str, Any]] = []
    samples: list[dict[str, Any]] = []
    for context in settings.contexts:
        fars = [target.far(context, settings.window) for target in targets]
        arms = arm_runs(
            names,
            subjects,
            fars,
            [target.document.id for target in targets],
            groups=[target.document.domain for target in targets],
            seed=settings.seed,
        )
        losses = {arm.name: _losses(arm, targets, context, settings, progress) for arm in arms}
        entries = {arm.name: arm.entries() for arm in arms}
        tokens = [len(far.ids) for far in fars]
        for domain in [*domains, *([TOGETHER] if len(domains) > 1 else [])]:
            picked = [i for i, t in enumerate(targets) if domain in (TOGETHER, t.document.domain)]
            rows += _rows(domain, context, picked, targets, losses, entries, tokens, settings)
        samples += [
            {
                "document": target.document.id,
                "context": context,
                "tokens": tokens[i],
                "nats": {name: values[i] for name, values in losses.items()},
                "entries": {name: values[i] for name, values in entries.items()},
            }
            for i, target in enumerate(targets)
        ]
    return _result(rows, samples, settings, facts or {}, targets)


def _losses(
    arm: ArmRun,
    targets: Sequence[Target],
    context: int,
    settings: PerplexitySettings,
    progress: Progress,
) -> list[float]:
    found: list[float] = []
    for start in range(0, len(targets), settings.batch_size):
        part = slice(start, start + settings.batch_size)
        scores = arm.subject.nll(
            arm.fars[part],
            [target.window(settings.window) for target in targets[part]],
            [target.ids for target in targets[part]],
            [target.head(context, settings.window) for target in targets[part]]
            if settings.own_head
            else None,
        )
        found += [score.mean for score in scores]
        progress(f"{arm.name}, {context} tokens", len(found), len(targets))
    return found


def _rows(
    domain: str,
    context: int,
    picked: Sequence[int],
    targets: Sequence[Target],
    losses: dict[str, list[float]],
    entries: dict[str, list[int]],
    tokens: Sequence[int],
    settings: PerplexitySettings,
) -> list[dict[str, Any]]:
    clusters = [targets[i].document.id for i in picked]

    def mean(values: Sequence[float]) -> Interval:
        return clustered_mean(values, clusters, resamples=settings.resamples, seed=settings.seed)

    def gap(worse: str, better: str) -> Interval | None:
        if worse == better or not {worse, better} <= set(losses):
            return None
        return mean([losses[worse][i] - losses[better][i] for i in picked])

    rows = []
    for name in losses:
        gain = gap("none", name)
        raw_gain = gap("none", "raw")
        rows.append(
            {
                "domain": domain,
                "context": context,
                "arm": name,
                "targets": len(picked),
                "documents": len(set(clusters)),
                "tokens": float(np.mean([tokens[i] for i in picked])),
                "entries": float(np.mean([entries[name][i] for i in picked])),
                "nats": mean([losses[name][i] for i in picked]),
                "gain": gain,
                "share_of_raw_gain": gain.value / raw_gain.value
                if gain and raw_gain and raw_gain.value
                else None,
                "minus_shuffled": gap(f"{name}-shuffled", name),
            }
        )
    return rows


def _result(
    rows: Sequence[dict[str, Any]],
    samples: Sequence[dict[str, Any]],
    settings: PerplexitySettings,
    facts: dict[str, Any],
    targets: Sequence[Target],
) -> EvalResult:
    keys = list(dict.fromkeys((row["domain"], row["context"]) for row in rows))
    tables = []
    for domain, context in keys:
        own = [row for row in rows if (row["domain"], row["context"]) == (domain, context)]
        tables.append(
            Table(
                title=f"{domain}: {context} far tokens, window {settings.window}, "
                f"{own[0]['targets']} targets in {own[0]['documents']} documents",
                columns=COLUMNS,
                rows=tuple(_cells(row) for row in own),
            )
        )
    last = keys[-1][0]
    names = list(dict.fromkeys(row["arm"] for row in rows if row["arm"] != "none"))
    curves = [
        Curve(
            name=name,
            x=tuple(row["context"] for row in rows if (row["domain"], row["arm"]) == (last, name)),
            y=tuple(row["gain"] for row in rows if (row["domain"], row["arm"]) == (last, name)),
        )
        for name in names
    ]
    return EvalResult(
        task="perplexity",
        heading="Loss of the next tokens, by what is read of the far context",
        notes=(
            f"The next {settings.score} tokens are scored after a raw window of {settings.window} "
            "tokens and a far context before it. Every arm starts with the same head, "
            + ("the token before the far context. " if settings.own_head else "a fixed text. ")
            + "Brackets: 95 % interval, bootstrapped over documents. gain: loss of the arm none "
            "minus this arm's, positive is better. minus shuffled: the shuffled arm's loss minus "
            "this arm's, what the right document is worth.",
            *(f"{name}: {ARMS[name]}." for name in dict.fromkeys(row["arm"] for row in rows)),
        ),
        rows=tuple(json_ready(row) for row in rows),
        tables=tuple(tables),
        curves=tuple(curves),
        axes=("far tokens", "gain over no far context, nats/token"),
        log_x=True,
        samples=tuple(samples),
        manifest=manifest(
            seed=settings.seed,
            num_targets=len(targets),
            num_documents=len({target.document.id for target in targets}),
            contexts=list(settings.contexts),
            window=settings.window,
            score=settings.score,
            own_head=settings.own_head,
            **facts,
        ),
    )


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    return (
        row["arm"],
        f"{row['entries']:.0f}",
        shown_ratio(row["tokens"], row["entries"]),
        shown(row["nats"]),
        shown(row["gain"], signed=True),
        shown(row["minus_shuffled"], signed=True),
    )
