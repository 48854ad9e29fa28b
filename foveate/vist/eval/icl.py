"""In-context learning: most demonstrations far, a few raw, in every arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from foveate.errors import InputError, check_least
from foveate.measure.manifest import manifest
from foveate.measure.parts import Parts
from foveate.measure.progress import Progress, no_progress
from foveate.tasks.icl import Demonstration, IclSet, shuffle_labels
from foveate.vist.eval.accuracy import accuracy_rows, accuracy_table, average_rows
from foveate.vist.eval.arms import ARMS, ArmRun, Subjects, arm_runs
from foveate.vist.eval.context import FarContext, LengthRule, best_option
from foveate.vist.eval.result import Curve, EvalResult, json_ready

OTHER_SET = "vist-other"
ICL_ARMS = {
    **ARMS,
    "vist-shuffled": "latents of the same demonstrations with each other's labels",
    OTHER_SET: "latents of another set's demonstrations",
    "cepe-shuffled": "the text encoder's of the demonstrations with each other's labels",
}
AVERAGE = "average"


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
        arms: from ICL_ARMS; () is all.
        seed: of the random tokens and the bootstrap.
    """

    raw: int = 2
    far: int = 18
    items: int = 250
    seeds: tuple[int, ...] = (42, 43, 44)
    rule: LengthRule = "mean"
    arms: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        check_least(InputError, self, raw=0, far=1, items=1)
        if not self.seeds:
            raise InputError("no seeds; give at least one, e.g. --seeds 42,43,44.")
        if self.rule not in ("mean", "sum"):
            raise InputError(f"unknown length rule {self.rule!r}; use mean or sum.")


def far_demonstrations(
    data: IclSet, examples: Sequence[Demonstration], subjects: Subjects
) -> FarContext:
    """Demonstrations, a blank line after each; drawn as they stand, line ends as signs.

    Without line ends even raw text teaches nothing.
    """
    shown = [data.shown(example) for example in examples]
    return FarContext(source=subjects.raw.encode("".join(f"{text}\n\n" for text in shown)))


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
    names = subjects.arms(settings.arms, ICL_ARMS)
    if len(sets) < 2:
        if OTHER_SET in settings.arms:
            raise InputError(f"the arm {OTHER_SET} needs a second set; add one to --sets.")
        names = tuple(name for name in names if name != OTHER_SET)
    rows: list[dict[str, Any]] = []
    groups, samples = [], []
    parts = parts or Parts()
    wanted = json_ready({**vars(settings), "arms": names, "seeds": None, **(facts or {})})
    jobs = [(number, seed) for number in range(len(sets)) for seed in settings.seeds]
    found: dict[tuple[int, int], dict[str, Any]] = {}
    for number, seed in parts.share(jobs):
        data, other = sets[number], sets[(number + 1) % len(sets)]
        found[number, seed] = parts.kept(
            f"{data.name}-{seed}",
            {**wanted, "other": other.name},
            partial(_one_seed, data, other, names, subjects, settings, seed, progress),
        )
    if parts.is_share:
        return None
    for number, data in enumerate(sets):
        own_parts = [found[number, seed] for seed in settings.seeds]
        hits, entries, tokens, clusters, own = _one_set(own_parts, names, data)
        made = accuracy_rows(
            hits, entries, tokens, clusters, seed=settings.seed, facts={"set": data.name}
        )
        for row in made:
            row["per_seed"] = _per_seed(hits[row["arm"]], settings)
        rows += made
        groups.append((hits, clusters))
        samples += own
    average = average_rows(groups, rows, seed=settings.seed, facts={"set": AVERAGE})
    tables = [
        accuracy_table(
            _title(name, settings), [row for row in [*average, *rows] if row["set"] == name]
        )
        for name in [AVERAGE, *(data.name for data in sets)]
    ]
    return EvalResult(
        task="icl",
        heading=f"In-context learning: {settings.raw} raw and {settings.far} far demonstrations",
        notes=(
            "Every arm has the same raw demonstrations and items; arms differ in what is read of "
            f"the far demonstrations. The label with the best {settings.rule} log-likelihood is "
            f"the answer. Seeds {', '.join(map(str, settings.seeds))}. Brackets: 95 % interval, "
            "bootstrapped over test items; the average weighs sets equally.",
            *(f"{name}: {ICL_ARMS[name]}." for name in names),
        ),
        rows=tuple(json_ready(row) for row in [*average, *rows]),
        tables=tuple(tables),
        curves=tuple(
            Curve(
                name=name,
                x=tuple(row["set"] for row in [*average, *rows] if row["arm"] == name),
                y=tuple(row["accuracy"] for row in [*average, *rows] if row["arm"] == name),
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
            **(facts or {}),
        ),
    )


def _title(name: str, settings: IclSettings) -> str:
    return f"{name}: {settings.raw} raw, {settings.far} far demonstrations"


def _one_set(
    parts: Sequence[dict[str, Any]], names: Sequence[str], data: IclSet
) -> tuple[dict[str, list[bool]], dict[str, list[int]], list[int], list[str], list[dict[str, Any]]]:
    """(arm -> right or wrong, arm -> entries, far tokens, clusters, records) over seeds."""
    hits: dict[str, list[bool]] = {name: [] for name in names}
    entries: dict[str, list[int]] = {name: [] for name in names}
    tokens: list[int] = []
    clusters: list[str] = []
    samples: list[dict[str, Any]] = []
    for part in parts:
        items, answers = part["items"], part["answers"]
        tokens += [part["far_tokens"]] * len(items)
        clusters += [item["text"] for item in items]
        for name in names:
            hits[name] += [a == item["label"] for a, item in zip(answers[name], items, strict=True)]
            entries[name] += [part["entries"][name]] * len(items)
        samples += [
            {
                "set": data.name,
                "seed": part["seed"],
                **item,
                "answers": {name: answers[name][i] for name in names},
            }
            for i, item in enumerate(items)
        ]
    return hits, entries, tokens, clusters, samples


def _one_seed(
    data: IclSet,
    other: IclSet,
    names: Sequence[str],
    subjects: Subjects,
    settings: IclSettings,
    seed: int,
    progress: Progress,
) -> dict[str, Any]:
    """What every arm answers with the demonstrations and items of one seed, JSON-ready."""
    items = data.questions(settings.items, seed)
    options = [f" {option}" for option in data.options]
    prompt, far, arms = _arms(data, other, names, subjects, settings, seed)
    answers: dict[str, list[str]] = {}
    for arm in arms:
        answers[arm.name] = []
        for number, item in enumerate(items):
            asked = prompt + data.template.asked(item.text)
            scores = arm.subject.option_nll(arm.fars[0], asked, options)
            answers[arm.name].append(data.labels[best_option(scores, settings.rule)])
            progress(f"{data.name} {seed}, {arm.name}", number + 1, len(items))
    return {
        "seed": seed,
        "far_tokens": len(far.ids),
        "entries": {arm.name: arm.entries()[0] for arm in arms},
        "items": [{"text": item.text, "label": item.label} for item in items],
        "answers": answers,
    }


def _arms(
    data: IclSet,
    other: IclSet,
    names: Sequence[str],
    subjects: Subjects,
    settings: IclSettings,
    seed: int,
) -> tuple[str, FarContext, list[ArmRun]]:
    """The raw demonstrations, the far ones, and what each arm reads of these."""
    shown = data.demonstrations(settings.far + settings.raw, seed)
    far_ones, raw_ones = shown[: settings.far], shown[settings.far :]
    far = far_demonstrations(data, far_ones, subjects)
    wrong = far_demonstrations(data, shuffle_labels(far_ones), subjects)
    elsewhere = far_demonstrations(
        other, other.demonstrations(settings.far, seed)[: settings.far], subjects
    )
    arms = arm_runs(
        names,
        subjects,
        [far],
        [data.name],
        seed=settings.seed + seed,
        others={"vist-shuffled": [wrong], "cepe-shuffled": [wrong], OTHER_SET: [elsewhere]},
    )
    return "".join(f"{data.shown(example)}\n\n" for example in raw_ones), far, arms


def _per_seed(hits: Sequence[bool], settings: IclSettings) -> dict[str, float]:
    size = len(hits) // len(settings.seeds)
    return {
        str(seed): sum(hits[i * size : (i + 1) * size]) / size
        for i, seed in enumerate(settings.seeds)
    }
