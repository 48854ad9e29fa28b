"""Key-value recall: exact match over depth, context length and entries read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from foveate.errors import InputError, check_least
from foveate.measure.manifest import manifest
from foveate.measure.parts import Part, Parts
from foveate.measure.progress import Progress, no_progress
from foveate.measure.quality import Interval, exact_match
from foveate.tasks.key_value import KINDS, KeyValueItem, Kind, make_items
from foveate.vist.eval.accuracy import accuracy_rows, accuracy_table
from foveate.vist.eval.arms import ARMS, Subjects, arm_runs, derangement, facts_of
from foveate.vist.eval.budget_arms import (
    BUDGET_ARMS,
    at_hand,
    budget_names,
    budget_view,
    check_budgets,
    reader_of,
    split_name,
)
from foveate.vist.eval.context import FarContext
from foveate.vist.eval.result import Curve, EvalResult, Table, json_ready

# What they read does not depend on the latents of a strip.
UNCOMPRESSED = ("none", "raw")
RECALL_ARMS = {**ARMS, **{name: BUDGET_ARMS[name] for name in BUDGET_ARMS if name not in ARMS}}


@dataclass(frozen=True, kw_only=True)
class RecallSettings:
    """The protocol.

    Args:
        contexts: tokens of the prose, tables of each.
        latents: per strip; each is another compression ratio.
        budgets: entries of the arms that look again, as shares of the tokens.
        depths: where the pair stands, 0 to 1.
        kinds: of values.
        count: items for each kind and depth.
        pairs: pairs in a context.
        filler: prose to hide the pairs in; None makes some up.
        max_new_tokens: longest answer.
        arms: from RECALL_ARMS; () is all there are models for. "none" and "raw" always run.
        seed: of all choices.
    """

    contexts: tuple[int, ...] = (512,)
    latents: tuple[int, ...] = (32, 64, 128)
    budgets: tuple[float, ...] = (1 / 12, 1 / 6, 1 / 3, 1 / 2)
    depths: tuple[float, ...] = (0.1, 0.5, 0.9)
    kinds: tuple[Kind, ...] = KINDS
    count: int = 10
    pairs: int = 4
    filler: str | None = None
    max_new_tokens: int = 12
    arms: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.contexts or not self.latents or min(self.latents) < 1:
            raise InputError(
                f"contexts={self.contexts}, latents={self.latents}; give at least one of each."
            )
        check_budgets(self.budgets)
        check_least(InputError, self, max_new_tokens=1)


@dataclass(frozen=True, kw_only=True)
class _Job:
    """One arm over all items of one length. `latents` and budget are 0 where they do not matter."""

    context: int
    latents: int
    arm: str

    @property
    def name(self) -> str:
        return (
            f"{self.context}-{self.latents}-{self.arm}"
            if self.latents
            else (f"{self.context}-{self.arm}")
        )


def evaluate_recall(
    subjects_of: Callable[[int], Subjects],
    settings: RecallSettings,
    *,
    facts: Mapping[str, Any] | None = None,
    progress: Progress = no_progress,
    parts: Parts | None = None,
) -> EvalResult | None:
    """Ask for hidden values in all arms, at every length, number of latents and budget.

    Args:
        subjects_of: the subjects for a number of latents per strip; the raw one is shared. Arms
            that look again have the latents of the largest number.
        settings: the protocol.
        facts: for the manifest.
        progress: is told of every arm.
        parts: where each arm is kept as soon as it is done, and which of them this process does.

    Returns:
        the tables; None where `parts` does a share only.
    """
    parts = parts or Parts()
    most = subjects_of(max(settings.latents))
    items = {context: _items(context, settings, most) for context in settings.contexts}
    jobs = _jobs(settings, most)
    # What further arms, lengths and budgets leave as it is.
    open_ended = ("arms", "latents", "budgets", "contexts")
    wanted = {key: value for key, value in vars(settings).items() if key not in open_ended}

    def part_of(job: _Job) -> Part:
        subjects = subjects_of(job.latents or max(settings.latents))
        return Part(
            name=job.name,
            told=f"{job.arm}, {job.context} tokens",
            wanted={**wanted, **facts_of(job.arm, facts or {})},
            make=partial(_ask, job, items[job.context], subjects, settings),
        )

    found = parts.make_all(jobs, part_of, progress)
    if found is None:
        return None
    rows: list[dict[str, Any]] = []
    tables: list[Table] = []
    samples: list[dict[str, Any]] = []
    for context in settings.contexts:
        for latents in (*settings.latents, 0):
            group = {
                job.arm: found[job]
                for job in jobs
                if job.context == context and (job.latents == latents or job.arm in UNCOMPRESSED)
            }
            if set(group) <= set(UNCOMPRESSED):
                continue
            made = _rows(items[context], group, settings)
            for row in made:
                row.update(context=context, latents=latents or None)
            rows += made
            what = f"{latents} latents per strip" if latents else "looking again within a budget"
            title = f"{context} tokens, {what}, {len(items[context])} items"
            whole = [row for row in made if row["kind"] is None and row["depth"] is None]
            tables += [accuracy_table(title, whole), _split_table(title, made)]
            samples += [
                {
                    "id": item.id,
                    "context": context,
                    "latents": latents or None,
                    "answer": item.answer,
                    "said": {arm: part["said"][i] for arm, part in group.items()},
                }
                for i, item in enumerate(items[context])
            ]
    return _result(rows, tables, samples, settings, facts or {})


def _items(context: int, settings: RecallSettings, subjects: Subjects) -> list[KeyValueItem]:
    return make_items(
        settings.count,
        length=context,
        num_tokens=lambda text: len(subjects.raw.encode(text)),
        kinds=settings.kinds,
        depths=settings.depths,
        pairs=settings.pairs,
        filler=settings.filler,
        seed=settings.seed,
    )


def _jobs(settings: RecallSettings, subjects: Subjects) -> list[_Job]:
    """Raises InputError for an unknown arm, or one without its model."""
    given = tuple(dict.fromkeys((*settings.arms, "raw"))) if settings.arms else ()
    can_run = {
        name
        for name in RECALL_ARMS
        if (name in BUDGET_ARMS and reader_of(name, subjects) is not None)
        or (name in ARMS and (subjects.cepe is not None or not name.startswith("cepe")))
    }
    missing = sorted((set(given) & set(RECALL_ARMS)) - can_run)
    if missing:
        raise InputError(f"these models cannot run the arms {', '.join(missing)}; leave them out.")
    names = subjects.arms(
        given, {n: RECALL_ARMS[n] for n in RECALL_ARMS if n in can_run | set(given)}
    )
    jobs = []
    for context in settings.contexts:
        jobs += [_Job(context=context, latents=0, arm=n) for n in names if n in UNCOMPRESSED]
        # What a question chooses is asked at every budget.
        looked = budget_names([n for n in names if n in BUDGET_ARMS], settings.budgets)
        jobs += [_Job(context=context, latents=0, arm=name) for name in looked]
        jobs += [
            _Job(context=context, latents=latents, arm=name)
            for latents in settings.latents
            for name in names
            if name in ARMS and name not in UNCOMPRESSED
        ]
    return jobs


def _ask(
    job: _Job, items: Sequence[KeyValueItem], subjects: Subjects, settings: RecallSettings
) -> dict[str, Any]:
    """What one arm says to all items, JSON-ready."""
    fars = [FarContext(source=subjects.raw.encode(item.context)) for item in items]
    ids = [item.id for item in items]
    # A value of another kind would give the shuffle away.
    kinds = [item.kind for item in items]
    views: Sequence[FarContext | None]
    if "@" in job.arm:
        subject = reader_of(job.arm, subjects)
        assert subject is not None
        partner: Sequence[int] = range(len(items))
        if split_name(job.arm)[0].endswith("-shuffled"):
            partner = derangement(ids, seed=settings.seed, groups=kinds)
        generator = np.random.default_rng(settings.seed)
        views = [
            budget_view(job.arm, at_hand(job.arm, fars[j], subjects), item.prompt, generator)
            for j, item in zip(partner, items, strict=True)
        ]
    else:
        (arm,) = arm_runs([job.arm], subjects, fars, ids, seed=settings.seed, groups=kinds)
        subject, views = arm.subject, arm.fars
    prompts = [f"\n\n{item.prompt}" for item in items]
    said = subject.answers(views, prompts, settings.max_new_tokens)
    return {
        "tokens": [len(far.ids) for far in fars],
        "entries": [subject.num_entries(view) if view is not None else 0 for view in views],
        "said": [text.split(".")[0].strip() for text in said],
    }


def _rows(
    items: Sequence[KeyValueItem], group: Mapping[str, Mapping[str, Any]], settings: RecallSettings
) -> list[dict[str, Any]]:
    """One row an arm over all items, then by kind, then by depth."""
    hits = {
        name: [exact_match(a, [item.answer]) for a, item in zip(part["said"], items, strict=True)]
        for name, part in group.items()
    }
    tokens = next(iter(group.values()))["tokens"]
    rows = []
    parts: list[tuple[str | None, float | None]] = [(None, None)]
    parts += [(kind, None) for kind in settings.kinds]
    parts += [(None, depth) for depth in settings.depths]
    for kind, depth in parts:
        picked = [
            i
            for i, item in enumerate(items)
            if kind in (None, item.kind) and depth in (None, item.depth)
        ]
        rows += accuracy_rows(
            {name: [values[i] for i in picked] for name, values in hits.items()},
            {name: [part["entries"][i] for i in picked] for name, part in group.items()},
            [tokens[i] for i in picked],
            [items[i].id for i in picked],
            seed=settings.seed,
            facts={"kind": kind, "depth": depth},
        )
    return rows


def _split_table(title: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    """Percent right by kind and by depth."""
    parts = list(dict.fromkeys((r["kind"], r["depth"]) for r in rows))[1:]
    names = list(dict.fromkeys(row["arm"] for row in rows))
    share = {(r["arm"], r["kind"], r["depth"]): r["accuracy"].value for r in rows}
    return Table(
        title=f"{title}: by kind and depth, % correct",
        columns=("arm", *(kind or f"depth {depth:g}" for kind, depth in parts)),
        rows=tuple(
            (name, *(f"{100 * share[name, kind, depth]:.0f}" for kind, depth in parts))
            for name in names
        ),
    )


def _result(
    rows: Sequence[dict[str, Any]],
    tables: Sequence[Table],
    samples: Sequence[dict[str, Any]],
    settings: RecallSettings,
    facts: Mapping[str, Any],
) -> EvalResult:
    names = list(dict.fromkeys(split_name(row["arm"])[0] for row in rows))
    return EvalResult(
        task="recall",
        heading="Key-value recall over the entries that are read",
        notes=(
            "A value is named once in prose and asked for by its key; an answer is right when it "
            "is exactly the value. Ratio: far tokens over the entries that are read instead. "
            "arm@share: within that share of the tokens, latents and raw tokens together. "
            "Brackets: 95 % interval, bootstrapped over items.",
            *(f"{name}: {RECALL_ARMS[name]}." for name in names),
        ),
        rows=tuple(json_ready(row) for row in rows),
        tables=tuple(tables),
        curves=tuple(_curves(rows, names, settings)),
        axes=("far tokens per entry", "exact match"),
        log_x=True,
        samples=tuple(samples),
        manifest=manifest(
            seed=settings.seed,
            contexts=list(settings.contexts),
            latents=list(settings.latents),
            budgets=list(settings.budgets),
            depths=list(settings.depths),
            kinds=list(settings.kinds),
            items_of_each=settings.count,
            pairs=settings.pairs,
            filler="made up" if settings.filler is None else "given",
            **facts,
        ),
    )


def _curves(
    rows: Sequence[Mapping[str, Any]], names: Sequence[str], settings: RecallSettings
) -> list[Curve]:
    """Exact match over the ratio at the longest context; arms without a ratio are level lines."""
    own = [
        row
        for row in rows
        if row["context"] == settings.contexts[-1] and row["kind"] is row["depth"] is None
    ]
    ratios = sorted({r["tokens"] / r["entries"] for r in own if r["arm"] not in UNCOMPRESSED
                     if r["entries"]}) or [1.0]  # fmt: skip
    curves = []
    for name in names:
        points: list[tuple[float, Interval]] = []
        for row in (row for row in own if split_name(row["arm"])[0] == name):
            if name in UNCOMPRESSED:
                points = [(ratio, row["accuracy"]) for ratio in ratios]
            else:
                points.append((row["tokens"] / max(1.0, row["entries"]), row["accuracy"]))
        points.sort(key=lambda point: point[0])
        curves.append(
            Curve(name=name, x=tuple(p[0] for p in points), y=tuple(p[1] for p in points))
        )
    return curves
