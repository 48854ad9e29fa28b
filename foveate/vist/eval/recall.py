"""Key-value recall: exact match over depth, context length and compression ratio."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from foveate.errors import InputError, check_least
from foveate.measure.manifest import manifest
from foveate.measure.progress import Progress, no_progress
from foveate.measure.quality import Interval, exact_match
from foveate.tasks.key_value import KINDS, KeyValueItem, Kind, make_items
from foveate.vist.eval.accuracy import accuracy_rows, accuracy_table
from foveate.vist.eval.arms import ARMS, Subjects, arm_runs
from foveate.vist.eval.context import FarContext
from foveate.vist.eval.result import Curve, EvalResult, Table, json_ready

# What they read does not depend on the latents of a strip.
UNCOMPRESSED = ("none", "raw")


@dataclass(frozen=True, kw_only=True)
class RecallSettings:
    """The protocol.

    Args:
        contexts: tokens of the prose, one table each.
        latents: per strip; each is another compression ratio.
        depths: where the pair stands, 0 to 1.
        kinds: of values.
        count: items for each kind and depth.
        pairs: pairs in a context.
        filler: prose to hide the pairs in; None makes some up.
        max_new_tokens: longest answer.
        arms: from ARMS; () is all.
        seed: of all choices.
    """

    contexts: tuple[int, ...] = (512,)
    latents: tuple[int, ...] = (32, 64, 128)
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
        check_least(InputError, self, max_new_tokens=1)


def evaluate_recall(
    subjects_of: Callable[[int], Subjects],
    settings: RecallSettings,
    *,
    facts: Mapping[str, Any] | None = None,
    progress: Progress = no_progress,
) -> EvalResult:
    """Ask for hidden values in all arms, at every length and number of latents.

    Args:
        subjects_of: the subjects for a number of latents per strip; the raw one is shared.
    """
    rows: list[dict[str, Any]] = []
    tables: list[Table] = []
    samples: list[dict[str, Any]] = []
    for context in settings.contexts:
        raw = subjects_of(settings.latents[0]).raw
        items = make_items(
            settings.count,
            length=context,
            num_tokens=lambda text: len(raw.encode(text)),  # noqa: B023
            kinds=settings.kinds,
            depths=settings.depths,
            pairs=settings.pairs,
            filler=settings.filler,
            seed=settings.seed,
        )
        shared: dict[str, list[str]] = {}
        for latents in settings.latents:
            made, said = _one(subjects_of(latents), items, settings, latents, shared, progress)
            for row in made:
                row["context"] = context
            rows += made
            title = f"{context} tokens, {latents} latents per strip, {len(items)} items"
            whole = [row for row in made if row["kind"] is None and row["depth"] is None]
            tables += [accuracy_table(title, whole), _split_table(title, made)]
            samples += [
                {
                    "id": item.id,
                    "context": context,
                    "latents": latents,
                    "answer": item.answer,
                    "said": {name: answers[i] for name, answers in said.items()},
                }
                for i, item in enumerate(items)
            ]
    names = list(dict.fromkeys(row["arm"] for row in rows))
    return EvalResult(
        task="recall",
        heading="Key-value recall over the compression ratio",
        notes=(
            "A value is named once in prose and asked for by its key; an answer is right when it "
            "is exactly the value. Ratio: far tokens over the entries that are read instead. "
            "Brackets: 95 % interval, bootstrapped over items.",
            *(f"{name}: {ARMS[name]}." for name in names),
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
            depths=list(settings.depths),
            kinds=list(settings.kinds),
            items_of_each=settings.count,
            pairs=settings.pairs,
            filler="made up" if settings.filler is None else "given",
            **(facts or {}),
        ),
    )


def _one(
    subjects: Subjects,
    items: Sequence[KeyValueItem],
    settings: RecallSettings,
    latents: int,
    shared: dict[str, list[str]],
    progress: Progress,
) -> tuple[list[dict[str, Any]], dict[str, list[str]]]:
    """Rows at one number of latents, and what was said. `shared` keeps what does not depend."""
    names = subjects.arms(settings.arms)
    fars = [FarContext(source=subjects.raw.encode(item.context)) for item in items]
    ids = [item.id for item in items]
    # A value of another kind would give the shuffle away.
    kinds = [item.kind for item in items]
    arms = arm_runs(names, subjects, fars, ids, seed=settings.seed, groups=kinds)
    said: dict[str, list[str]] = {}
    for arm in arms:
        if arm.name in shared:
            said[arm.name] = shared[arm.name]
            continue
        answers = said[arm.name] = []
        for number, (item, far) in enumerate(zip(items, arm.fars, strict=True)):
            text = arm.subject.answer(far, f"\n\n{item.prompt}", settings.max_new_tokens)
            answers.append(text.split(".")[0].strip())
            progress(f"{arm.name}, {latents} latents", number + 1, len(items))
        if arm.name in UNCOMPRESSED:
            shared[arm.name] = answers
    hits = {
        name: [exact_match(a, [item.answer]) for a, item in zip(answers, items, strict=True)]
        for name, answers in said.items()
    }
    entries = {arm.name: arm.entries() for arm in arms}
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
            {name: [values[i] for i in picked] for name, values in entries.items()},
            [len(fars[i].ids) for i in picked],
            [ids[i] for i in picked],
            seed=settings.seed,
            facts={"latents": latents, "kind": kind, "depth": depth},
        )
    return rows, said


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


def _curves(
    rows: Sequence[Mapping[str, Any]], names: Sequence[str], settings: RecallSettings
) -> list[Curve]:
    """Exact match over the ratio at the longest context; arms without a ratio are level lines."""
    own = [
        row
        for row in rows
        if row["context"] == settings.contexts[-1] and row["kind"] is row["depth"] is None
    ]
    ratios = sorted({r["tokens"] / r["entries"] for r in own if r["arm"] == "vist"}) or [1.0]
    curves = []
    for name in names:
        points: list[tuple[float, Interval]] = []
        for row in (row for row in own if row["arm"] == name):
            if name in UNCOMPRESSED:
                points = [(ratio, row["accuracy"]) for ratio in ratios]
            else:
                points.append((row["tokens"] / max(1.0, row["entries"]), row["accuracy"]))
        points.sort(key=lambda point: point[0])
        curves.append(
            Curve(name=name, x=tuple(p[0] for p in points), y=tuple(p[1] for p in points))
        )
    return curves
