"""Loss of the next tokens of held-out documents, with the far context read in every arm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from foveate.core.context import ContextReader, EncodedText, FarContext
from foveate.errors import InputError
from foveate.measure.arms import ARMS, Arm, Progress, Readers, build_arms, no_progress
from foveate.measure.manifest import manifest
from foveate.measure.quality import Interval, clustered_mean
from foveate.measure.vist_result import (
    Curve,
    EvalResult,
    Table,
    json_ready,
    shown,
    shown_ratio,
)
from foveate.tasks.documents import Document

TOGETHER = "all"
COLUMNS = ("arm", "entries", "ratio", "nats/token", "gain over none", "minus shuffled")


@dataclass(frozen=True, kw_only=True)
class PerplexitySettings:
    """Where a document is cut.

    Args:
        contexts: far tokens, one table each; every length scores the same target tokens.
        window: raw tokens between the far context and the target. The protocol `near` has none,
            `far` 256.
        score: target tokens.
        windows: most targets a document.
        limit: most targets a domain; None is all.
        arms: from measure.arms.ARMS; () is all.
        own_head: the head of every row, in every arm, is the token before its far context, as in
            training; False is the readers' own head.
        batch_size: rows at a time.
        seed: of the choice of documents, the shuffle, the random tokens and the bootstrap.
        resamples: bootstrap draws.
    """

    contexts: tuple[int, ...] = (512,)
    window: int = 0
    score: int = 96
    windows: int = 4
    limit: int | None = None
    arms: tuple[str, ...] = ()
    own_head: bool = True
    batch_size: int = 4
    seed: int = 0
    resamples: int = 2000

    def __post_init__(self) -> None:
        least = {"window": 0, "score": 1, "windows": 1, "batch_size": 1, "resamples": 1}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise InputError(f"{name}={getattr(self, name)} is below {low}; raise it.")
        if not self.contexts or min(self.contexts) < 1:
            raise InputError(f"contexts={self.contexts}; give far lengths of at least 1 token.")
        if self.limit is not None and self.limit < 2:
            raise InputError(f"limit={self.limit} leaves nothing to shuffle with; use 2 or more.")


@dataclass(frozen=True, kw_only=True)
class Target:
    """Tokens of a document that are scored, with what stands before them."""

    document: Document
    before: EncodedText  # a head token, the longest far context, the window
    ids: tuple[int, ...]

    def far(self, context: int, window: int) -> FarContext:
        """The `context` tokens before the window."""
        stop = len(self.before) - window
        return FarContext(source=self.before.cut(stop - context, stop))

    def head(self, context: int, window: int) -> tuple[int, ...]:
        """The token before that far context."""
        return (self.before.ids[len(self.before) - window - context - 1],)

    def window(self, size: int) -> tuple[int, ...]:
        """The last `size` tokens before the target."""
        return self.before.ids[len(self.before) - size :]


def choose_targets(
    documents: Sequence[Document], reader: ContextReader, settings: PerplexitySettings
) -> list[Target]:
    """Targets at even distances in each document, documents in a seeded order, domain by domain.

    Raises:
        InputError: no document is long enough.
    """
    need = 1 + max(settings.contexts) + settings.window
    targets, longest = [], 0
    generator = np.random.default_rng(settings.seed)
    for domain in dict.fromkeys(document.domain for document in documents):
        own = [document for document in documents if document.domain == domain]
        found: list[Target] = []
        for i in generator.permutation(len(own)).tolist():
            if settings.limit is not None and len(found) >= settings.limit:
                break
            text = reader.encode(own[i].text)
            longest = max(longest, len(text))
            found += _targets_of(own[i], text, need, settings)
        targets += found[: settings.limit]
    if not targets:
        raise InputError(
            f"no document has the {need + settings.score} tokens that a target with its context "
            f"needs (the longest has {longest}); shorten --context or give longer documents."
        )
    return targets


def _targets_of(
    document: Document, text: EncodedText, need: int, settings: PerplexitySettings
) -> list[Target]:
    room = len(text) - need - settings.score
    if room < 0:
        return []
    count = min(settings.windows, 1 + room // settings.score)
    # The first target has just enough before it, the last one ends the document.
    places = np.linspace(need, need + room, count).astype(int).tolist() if count > 1 else [need]
    return [
        Target(
            document=document,
            before=text.cut(at - need, at),
            ids=text.ids[at : at + settings.score],
        )
        for at in places
    ]


def evaluate_perplexity(
    documents: Sequence[Document],
    readers: Readers,
    settings: PerplexitySettings,
    *,
    facts: dict[str, Any] | None = None,
    progress: Progress = no_progress,
) -> EvalResult:
    """Score the targets of all documents in all arms, at every context length.

    Raises:
        InputError: no document is long enough, a domain with one document only, an unknown arm.
    """
    names = readers.arms(settings.arms)
    targets = choose_targets(documents, readers.raw, settings)
    domains = list(dict.fromkeys(target.document.domain for target in targets))
    rows: list[dict[str, Any]] = []
    samples: list[dict[str, Any]] = []
    for context in settings.contexts:
        fars = [target.far(context, settings.window) for target in targets]
        arms = build_arms(
            names,
            readers,
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
    arm: Arm,
    targets: Sequence[Target],
    context: int,
    settings: PerplexitySettings,
    progress: Progress,
) -> list[float]:
    found: list[float] = []
    for start in range(0, len(targets), settings.batch_size):
        part = slice(start, start + settings.batch_size)
        scores = arm.reader.nll(
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
