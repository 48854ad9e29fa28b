"""Does tuning keep its promise, and what does it cost? A replay of answers that `compare` kept.

`python -m benchmarks.tune --reading FOLDER --easy-vqa FOLDER` writes docs/results/tune.json and
tune.md; each folder is the compare-parts of a run of `foveate compare` on that data set. No model
is asked: a draw takes the kept answers, as if a user had tuned, and what is true is known.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.progress import Progress

from benchmarks.results import FOLDER, write_results
from foveate.assets import EMBEDDED, model_folder
from foveate.carve.compare.comparison import BLIND, FULL
from foveate.carve.compare.savings import Savings
from foveate.carve.tune.asking import losses_of
from foveate.carve.tune.search import Found, Rules, search
from foveate.carve.tune.settings import EXPLORE, FEWEST, MOST, By
from foveate.core.decoder_shape import DecoderShape
from foveate.measure.manifest import manifest
from foveate.models.load import load_config
from foveate.tasks.named import load_questions
from foveate.tasks.question import Question

Losses = npt.NDArray[np.float64]
LEVEL = 0.05
ALLOWED = (0.01, 0.03)
BYS: tuple[By, ...] = ("accuracy", "agreement")
WORLDS = {
    "population": "a file of 2,000 questions drawn independently from the kept ones, each with an "
    "image of its own; true is the mean over the kept ones",
    "large": "the same of 8,000 questions",
    "held-out": "half of the images with all their questions; checked on the other half, which is "
    "noisy itself",
    "file": "all questions, claim about the file alone; true is the file's mean",
}
DRAWN = {"population": 2000, "large": 8000}
STEP = 64  # questions between two looks
PEEKS = 500  # questions that the control looks at


@dataclass(frozen=True, kw_only=True)
class Kept:
    """Answers of one data set.

    Args:
        losses: by what is lost, [settings, questions].
        names: of the settings.
        costs: prefill FLOPs against the full model.
        images: the questions of each image.
    """

    losses: Mapping[By, Losses]
    names: list[str]
    costs: dict[str, float]
    images: list[npt.NDArray[np.int64]]

    @classmethod
    def load(cls, folder: Path, data: str, limit: int) -> Kept:
        said, saved = _read(folder)
        questions = load_questions(data, limit=limit)[: len(said[FULL])]
        full = said.pop(FULL)
        said.pop(BLIND, None)
        names = sorted(said)
        shape = DecoderShape.of(load_config(model_folder(EMBEDDED)))
        groups: dict[str, list[int]] = {}
        for number, question in enumerate(questions):
            groups.setdefault(question.image_id, []).append(number)
        return cls(
            losses={by: _losses(full, [said[n] for n in names], questions, by) for by in BYS},
            names=names,
            costs={name: Savings.total(saved[name]).flops_ratio(shape) for name in names},
            images=[np.array(group) for group in groups.values()],
        )


def _read(folder: Path) -> tuple[dict[str, list[str]], dict[str, list[dict[str, Any]]]]:
    """(answers, savings) of every arm, as far as all of them were asked."""
    said: dict[str, list[str]] = {}
    saved: dict[str, list[dict[str, Any]]] = {}
    for file in sorted(folder.glob("*/*.json")):
        held = json.loads(file.read_text())
        arm = held["settings"]["arm"]
        said.setdefault(arm, []).extend(held["part"]["answers"])
        saved.setdefault(arm, []).append(held["part"]["savings"])
    if FULL not in said or len(said) < 3:
        raise SystemExit(f"{folder} does not hold answers of the full model and of settings.")
    least = min(map(len, said.values()))
    return {arm: answers[:least] for arm, answers in said.items()}, saved


def _losses(
    full: Sequence[str], said: Sequence[Sequence[str]], questions: Sequence[Question], by: By
) -> Losses:
    return np.array([losses_of(full, answers, questions, by) for answers in said])


@dataclass(frozen=True, kw_only=True)
class Draw:
    """One tuning: what was chosen, its loss where that is known, calls as a share of the grid's."""

    chosen: str | None
    loss: float
    calls: float


def draw(kept: Kept, by: By, world: str, allowed: float, seed: int) -> Draw:
    """Tune once."""
    generator = np.random.default_rng(seed)
    losses = kept.losses[by]
    count = losses.shape[1]
    if world in DRAWN:
        units = [np.array([q]) for q in generator.integers(0, count, DRAWN[world])]
        truth = losses.mean(axis=1)
    elif world == "file":
        units = [np.array([q]) for q in generator.permutation(count)]
        truth = losses.mean(axis=1)
    else:
        order = generator.permutation(len(kept.images))
        half = len(order) // 2
        units = [kept.images[i] for i in order[:half]]
        truth = _of_images(losses, [kept.images[i] for i in order[half:]]).mean(axis=1)
    found, calls = replay(kept.names, _of_images(losses, units), units, kept.costs, allowed, world)
    place = kept.names.index(found.chosen) if found.chosen else None
    return Draw(
        chosen=found.chosen,
        loss=float("nan") if place is None else float(truth[place]),
        calls=calls,
    )


def _of_images(losses: Losses, units: Sequence[npt.NDArray[np.int64]]) -> Losses:
    """Mean loss of each unit, [settings, units]."""
    if all(len(unit) == 1 for unit in units):
        return losses[:, np.concatenate(units)]
    return np.stack([losses[:, unit].mean(axis=1) for unit in units], axis=1)


def replay(
    names: Sequence[str],
    losses: Losses,
    units: Sequence[npt.NDArray[np.int64]],
    costs: Mapping[str, float],
    allowed: float,
    world: str,
) -> tuple[Found, float]:
    """The search on kept answers, and its calls as a share of the grid's."""
    calls = 0
    place = {name: i for i, name in enumerate(names)}
    sizes = np.array([len(unit) for unit in units])

    def ask(start: int, stop: int, asked: Sequence[str]) -> dict[str, list[float]]:
        nonlocal calls
        calls += int(sizes[start:stop].sum()) * (len(asked) + 1)
        return {name: losses[place[name], start:stop].tolist() for name in asked}

    rules = Rules(
        max_loss=allowed,
        level=LEVEL,
        num_units=len(units),
        explore=min(max(FEWEST, round(EXPLORE * len(units))), MOST),
        step=max(1, round(STEP / sizes.mean())),
        is_whole=world == "file",
    )
    found = search(names, ask, lambda left: {name: costs[name] for name in left}, rules)
    return found, calls / (int(sizes.sum()) * (len(names) + 1))


def naive_errors(kept: Kept, by: By, allowed: float, draws: int) -> tuple[int, int]:
    """The control: (choices, wrong ones) by an ordinary interval, looked at on the way.

    After every tenth question the setting with a one-sided 95 % interval of the normal below what
    is allowed is taken as safe; of those the cheapest is chosen.
    """
    losses = kept.losses[by]
    truth = losses.mean(axis=1)
    costs = np.array([kept.costs[name] for name in kept.names])
    wrong = chosen = 0
    for seed in range(draws):
        drawn = np.random.default_rng(seed).integers(0, losses.shape[1], PEEKS)
        seen = losses[:, drawn]
        safe = np.zeros(len(costs), dtype=bool)
        for n in range(30, PEEKS + 1, 10):
            spread = 1.645 * seen[:, :n].std(axis=1, ddof=1) / math.sqrt(n)
            safe |= seen[:, :n].mean(axis=1) + spread < allowed
        if safe.any():
            chosen += 1
            wrong += bool(truth[np.flatnonzero(safe)[costs[safe].argmin()]] >= allowed)
    return chosen, wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reading", type=Path)
    parser.add_argument("--easy-vqa", type=Path)
    parser.add_argument("--limit", type=int, default=2000, help="questions that were asked")
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--by", nargs="*", choices=BYS, default=BYS)
    parser.add_argument("--claims", nargs="*", choices=[*WORLDS], default=[*WORLDS])
    parser.add_argument("--add", action="store_true", help="to the rows that are there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    given = {"reading": arguments.reading, "easy-vqa": arguments.easy_vqa}
    rows: list[dict[str, Any]] = []
    with Progress(console=Console(stderr=True)) as progress:
        for data, folder in given.items():
            if folder is None:
                continue
            kept = Kept.load(folder, data, arguments.limit)
            # Three points need no large file.
            skipped = (ALLOWED[-1], "large")
            cells = [
                (b, a, w)
                for b in arguments.by
                for a in ALLOWED
                for w in arguments.claims
                if (a, w) != skipped
            ]
            task = progress.add_task(data, total=len(cells) * arguments.draws)
            for by, allowed, world in cells:
                draws = []
                for seed in range(arguments.draws):
                    draws.append(draw(kept, by, world, allowed, seed))
                    progress.advance(task)
                control = (
                    naive_errors(kept, by, allowed, arguments.draws)
                    if world == "population"
                    else None
                )
                rows.append(_row(kept, data, by, allowed, world, draws, control))
    if not rows:
        parser.error("give --reading or --easy-vqa, a compare-parts folder.")
    if arguments.add:
        rows = _added(rows, json.loads((FOLDER / "tune.json").read_text())["rows"])
    _write(rows)


def _write(rows: Sequence[dict[str, Any]]) -> None:
    write_results(
        "tune",
        "Tuning: is the promise kept, and what does it cost?",
        f"{rows[0]['draws']} draws each at 95 % confidence, embedded model, a replay of answers "
        "that `foveate compare` kept ("
        + "; ".join(
            sorted(
                {
                    f"{r['data']}: {r['settings']} settings, {r['questions']:,} questions"
                    for r in rows
                }
            )
        )
        + "). *chose*: draws in which some setting was found safe. *beyond*: those whose choice "
        "loses as much as was allowed, or more; at most 5 are promised where the true loss is "
        "known (on held-out images chance adds to it). *calls*: model calls against asking every "
        "setting everything. *FLOPs*: of the chosen settings, against the full model. *control*: "
        "how many choices lose too much where an ordinary 95 % interval is looked at on the way. "
        + " ".join(f"**{name}**: {what}." for name, what in WORLDS.items()),
        _table(rows),
        {"rows": rows, "manifest": manifest(seed=0)},
    )


def _added(rows: list[dict[str, Any]], before: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The new rows and the old ones of other cells, in the order of a whole run."""

    def cell(row: Mapping[str, Any]) -> tuple[Any, ...]:
        places = ["reading", "easy-vqa"].index(row["data"]), BYS.index(row["by"])
        return *places, row["allowed"], [*WORLDS].index(row["world"])

    fresh = {cell(row) for row in rows}
    return sorted([*rows, *(row for row in before if cell(row) not in fresh)], key=cell)


def _row(
    kept: Kept,
    data: str,
    by: By,
    allowed: float,
    world: str,
    draws: Sequence[Draw],
    control: tuple[int, int] | None,
) -> dict[str, Any]:
    chosen = [each.chosen for each in draws if each.chosen is not None]
    return {
        "data": data,
        "settings": len(kept.names),
        "questions": kept.losses[by].shape[1],
        "draws": len(draws),
        "by": by,
        "allowed": allowed,
        "world": world,
        "chose": len(chosen),
        "beyond": sum(each.loss >= allowed for each in draws if each.chosen is not None),
        "calls": float(np.mean([each.calls for each in draws])),
        "flops": float(np.mean([kept.costs[name] for name in chosen])) if chosen else None,
        "most": Counter(chosen).most_common(3),
        "control": control,
    }


def _table(rows: Sequence[dict[str, Any]]) -> list[str]:
    heads = ("data", "by", "allowed", "claim", "chose", "beyond", "calls", "FLOPs", "most often",
             "control")  # fmt: skip
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for row in rows:
        cells = [
            row["data"],
            row["by"],
            f"{100 * row['allowed']:g}",
            row["world"],
            str(row["chose"]),
            str(row["beyond"]),
            f"{100 * row['calls']:.1f} %",
            "" if row["flops"] is None else f"{row['flops']:.2f}",
            ", ".join(f"{name} ({count})" for name, count in row["most"]),
            "" if row["control"] is None else "{1} of {0}".format(*row["control"]),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    main()
