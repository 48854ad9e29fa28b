"""In-context learning: most demonstrations far, a few raw, in every arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from foveate.errors import InputError, check_least
from foveate.measure.manifest import manifest
from foveate.measure.parts import Part, Parts
from foveate.measure.progress import Progress, no_progress
from foveate.tasks.icl import HELPED, IclSet
from foveate.vist.eval.accuracy import accuracy_rows, accuracy_table, average_rows
from foveate.vist.eval.arms import Subjects, facts_of
from foveate.vist.eval.budget_arms import check_budgets
from foveate.vist.eval.context import LengthRule, best_option
from foveate.vist.eval.icl_arms import (
    ICL_ARMS,
    OTHER_SET,
    FarShots,
    far_demonstrations,
    icl_arms,
)
from foveate.vist.eval.result import Curve, EvalResult, json_ready

AVERAGE = "average"
HELPED_SETS = "helped"  # the average over tasks.icl.HELPED


@dataclass(frozen=True, kw_only=True)
class IclSettings:
    """The protocol.

    Args:
        raw: demonstrations in the prompt, in every arm.
        far: demonstrations before them.
        items: test items a set and seed.
        seeds: of demonstrations and test items.
        rule: how options of different lengths compare, see core.context.best_option. The paper does
            not say; the mean over the option's tokens is our default.
        budgets: entries of arms with a budget, as shares of the far tokens.
        arms: from ICL_ARMS; () is all there are models for.
        seed: of the random tokens and the bootstrap.
    """

    raw: int = 2
    far: int = 18
    items: int = 250
    seeds: tuple[int, ...] = (42, 43, 44)
    rule: LengthRule = "mean"
    budgets: tuple[float, ...] = (0.4,)
    arms: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        check_least(InputError, self, raw=0, far=1, items=1)
        check_budgets(self.budgets)
        if not self.seeds:
            raise InputError("no seeds; give at least one, e.g. --seeds 42,43,44.")
        if self.rule not in ("mean", "sum"):
            raise InputError(f"unknown length rule {self.rule!r}; use mean or sum.")


def evaluate_icl(
    sets: Sequence[IclSet],
    subjects: Subjects,
    settings: IclSettings,
    *,
    facts: Mapping[str, Any] | None = None,
    progress: Progress = no_progress,
    parts: Parts | None = None,
) -> EvalResult | None:
    """Classify test items of every set in all arms.

    Every arm has the same raw demonstrations, far demonstrations and items for a seed.

    Args:
        sets: of labelled texts.
        subjects: the models.
        settings: the protocol.
        facts: for the manifest.
        progress: is told of every item.
        parts: where each set and seed is kept as soon as it is done, and which of them this
            process does; None keeps nothing.

    Returns:
        the tables; None where `parts` does a share only.

    Raises:
        InputError: an unknown arm, the arm of another set with a single set, or parts of another
            protocol.
    """
    names = icl_arms(settings.arms, subjects, settings.budgets, len(sets))
    rows: list[dict[str, Any]] = []
    groups, samples = {}, []
    parts = parts or Parts()
    # What further arms, seeds and budgets leave as it is.
    open_ended = ("arms", "seeds", "budgets")
    wanted = {key: value for key, value in vars(settings).items() if key not in open_ended}
    jobs = [
        (number, seed, name)
        for number in range(len(sets))
        for seed in settings.seeds
        for name in names
    ]

    def part_of(job: tuple[int, int, str]) -> Part:
        number, seed, name = job
        data, other = sets[number], sets[(number + 1) % len(sets)]
        return Part(
            name=f"{data.name}-{seed}-{name}",
            told=f"{data.name} {seed}, {name}",
            wanted={
                **wanted,
                **facts_of(name, facts or {}),
                "other": other.name if name == OTHER_SET else None,
            },
            make=partial(_one_arm, data, other, name, subjects, settings, seed),
        )

    found = parts.make_all(jobs, part_of, progress)
    if found is None:
        return None
    for number, data in enumerate(sets):
        own_parts = {
            seed: {name: found[number, seed, name] for name in names} for seed in settings.seeds
        }
        hits, entries, tokens, clusters, own = _one_set(own_parts, data)
        made = accuracy_rows(
            hits, entries, tokens, clusters, seed=settings.seed, facts={"set": data.name}
        )
        for row in made:
            row["per_seed"] = _per_seed(hits[row["arm"]], settings)
        rows += made
        groups[data.name] = (hits, clusters)
        samples += own
    averages = []
    for title, chosen in ((AVERAGE, tuple(groups)), (HELPED_SETS, HELPED)):
        own_groups = [groups[name] for name in groups if name in chosen]
        if title == AVERAGE or 1 < len(own_groups) < len(groups):
            averages += average_rows(
                own_groups,
                [row for row in rows if row["set"] in chosen],
                seed=settings.seed,
                facts={"set": title},
            )
    tables = [
        accuracy_table(
            _title(name, settings), [row for row in [*averages, *rows] if row["set"] == name]
        )
        for name in dict.fromkeys(row["set"] for row in [*averages, *rows])
    ]
    return EvalResult(
        task="icl",
        heading=f"In-context learning: {settings.raw} raw and {settings.far} far demonstrations",
        notes=(
            "Every arm has the same raw demonstrations and items; arms differ in what is read of "
            f"the far demonstrations. The label with the best {settings.rule} log-likelihood is "
            f"the answer. Seeds {', '.join(map(str, settings.seeds))}. Brackets: 95 % interval, "
            "bootstrapped over test items; the average weighs sets equally. helped: the average "
            f"over {', '.join(HELPED)}, which raw demonstrations had helped before. arm-shuffled: "
            "the labels are each other's, so what an arm loses there (minus shuffled) is what it "
            "took from them. Shares of raw's gain and loss are left out where raw's own cannot be "
            "told from 0. arm@share: within that share of the far tokens, every entry counted.",
            *(
                f"{name}: {ICL_ARMS[name]}."
                for name in dict.fromkeys(n.split("@")[0] for n in names)
            ),
        ),
        rows=tuple(json_ready(row) for row in [*averages, *rows]),
        tables=tuple(tables),
        curves=tuple(
            Curve(
                name=name,
                x=tuple(row["set"] for row in [*averages, *rows] if row["arm"] == name),
                y=tuple(row["accuracy"] for row in [*averages, *rows] if row["arm"] == name),
            )
            for name in names
        ),
        axes=("", "correct"),
        samples=tuple(samples),
        manifest=manifest(
            seed=settings.seed,
            sets=[data.name for data in sets],
            seeds=list(settings.seeds),
            raw=settings.raw,
            far=settings.far,
            items=settings.items,
            rule=settings.rule,
            budgets=list(settings.budgets),
            **(facts or {}),
        ),
    )


def _title(name: str, settings: IclSettings) -> str:
    return f"{name}: {settings.raw} raw, {settings.far} far demonstrations"


def _one_set(
    parts: Mapping[int, Mapping[str, Mapping[str, Any]]], data: IclSet
) -> tuple[dict[str, list[bool]], dict[str, list[int]], list[int], list[str], list[dict[str, Any]]]:
    """(arm -> right or wrong, arm -> entries, far tokens, clusters, records) over seeds."""
    hits: dict[str, list[bool]] = {}
    entries: dict[str, list[int]] = {}
    tokens: list[int] = []
    clusters: list[str] = []
    samples: list[dict[str, Any]] = []
    for seed, arms in parts.items():
        items = arms["none"]["items"]
        tokens += [arms["none"]["far_tokens"]] * len(items)
        clusters += [item["text"] for item in items]
        for name, part in arms.items():
            right = [a == item["label"] for a, item in zip(part["answers"], items, strict=True)]
            hits.setdefault(name, []).extend(right)
            entries.setdefault(name, []).extend(part["entries"])
        samples += [
            {
                "set": data.name,
                "seed": seed,
                **item,
                "answers": {name: part["answers"][i] for name, part in arms.items()},
            }
            for i, item in enumerate(items)
        ]
    return hits, entries, tokens, clusters, samples


def _one_arm(
    data: IclSet,
    other: IclSet,
    name: str,
    subjects: Subjects,
    settings: IclSettings,
    seed: int,
) -> dict[str, Any]:
    """What one arm answers with the demonstrations and items of one seed, JSON-ready."""
    items = data.questions(settings.items, seed)
    options = [f" {option}" for option in data.options]
    shown = data.demonstrations(settings.far + settings.raw, seed)
    far_ones, raw_ones = shown[: settings.far], shown[settings.far :]
    far = FarShots(
        data=data,
        other=other,
        examples=far_ones,
        elsewhere=other.demonstrations(settings.far, seed),
        subjects=subjects,
        seed=settings.seed + seed,
    )
    subject, views = far.views(name, items)
    prompt = "".join(f"{data.shown(example)}\n\n" for example in raw_ones)
    answers, entries = [], []
    for item, view in zip(items, views, strict=True):
        scores = subject.option_nll(view, prompt + data.template.asked(item.text), options)
        answers.append(data.labels[best_option(scores, settings.rule)])
        entries.append(subject.num_entries(view) if view is not None else 0)
    return {
        "far_tokens": len(far_demonstrations(data, far_ones, subjects).ids),
        "entries": entries,
        "items": [{"text": item.text, "label": item.label} for item in items],
        "answers": answers,
    }


def _per_seed(hits: Sequence[bool], settings: IclSettings) -> dict[str, float]:
    size = len(hits) // len(settings.seeds)
    return {
        str(seed): sum(hits[i * size : (i + 1) * size]) / size
        for i, seed in enumerate(settings.seeds)
    }
