"""What each part of FoveaCarve is worth, on development questions (never on those of the results).

`python -m benchmarks.foveacarve_ablation` writes docs/results/foveacarve-ablation.json and
foveacarve-ablation.md; with `--add` it asks some variants more and keeps the others that are there.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

import foveate
from benchmarks.results import FOLDER, write_results
from foveate.carve.engine.image_cache import ImageCache, needs_the_tower
from foveate.carve.engine.run import Run
from foveate.carve.method import Method
from foveate.carve.methods import FoveaCarve
from foveate.core.greedy.pairs import Dense, Pairs
from foveate.core.grid_blur import grid_blur
from foveate.core.plan import KeepPlan, keep_only
from foveate.core.rank import top_k
from foveate.core.schedule import spans_of, tapered_counts
from foveate.core.similarity import cosine
from foveate.core.visual import VisualTokens
from foveate.measure.manifest import manifest
from foveate.measure.quality import accuracy, exact_match, paired_difference
from foveate.tasks.question import Question
from foveate.tasks.reading import reading_questions

BATCH = 50
NUM_TOKENS, NUM_LAYERS, LATE = 196, 8, 5  # of the embedded model; layer of the late step
BUDGETS = (49, 24, 12)  # what a cut before layer 0 would keep of an image
OURS = "the method"


@dataclass(frozen=True, kw_only=True)
class Variant(FoveaCarve):
    """FoveaCarve with one part changed.

    Args:
        floor: weight of a token that is not looked at.
        power: of what is looked at.
        kernel_of: "gaussian" (the method), "cosine" or "centred cosine".
        first: "log-det" (the method) or "map": the tokens of most weight.
        late: "attention" (the method) or "log-det" (blind, once more).
    """

    floor: float = 0.3
    power: float = 0.5
    kernel_of: str = "gaussian"
    first: str = "log-det"
    late: str = "attention"

    def kernel(self, visual: VisualTokens) -> Pairs:
        if self.kernel_of == "gaussian":
            return super().kernel(visual)
        x = visual.hidden.double()
        x = x - x.mean(dim=1, keepdim=True) if self.kernel_of == "centred cosine" else x
        return Dense(cosine(x, x))

    def weight(self, visual: VisualTokens) -> Tensor:
        assert visual.foresight is not None
        looked_at = grid_blur(visual.foresight, visual.grids, self.blur)
        most = looked_at.amax(dim=-1, keepdim=True).clamp_min(1e-30)
        return self.floor + (1 - self.floor) * (looked_at / most) ** self.power

    def plan(self, visual: VisualTokens, keep: int) -> KeepPlan:
        is_first = not visual.counts
        if is_first and self.first == "map":
            return keep_only(top_k(self.weight(visual), keep), visual.num_tokens)
        if not is_first and self.late == "log-det":
            visual = VisualTokens(hidden=visual.hidden)
        return super().plan(visual, keep)


VARIANTS: dict[str, dict[str, Any]] = {
    OURS: {},
    "no foresight: log-det, later attention": {"foresight": False},
    "no late step": {"depths": (0.0,)},
    "neither: log-det alone": {"depths": (0.0,), "foresight": False},
    "no log-det: the most looked-at tokens": {"first": "map"},
    "no blur": {"blur": 0.0},
    "blur 1": {"blur": 1.0},
    "blur 3": {"blur": 3.0},
    "w = r (floor 0)": {"floor": 0.0},
    "floor 0.1": {"floor": 0.1},
    "floor 0.5": {"floor": 0.5},
    "r instead of sqrt r": {"power": 1.0},
    "taper 1": {"taper": 1.0},
    "taper 0.6": {"taper": 0.6},
    "taper 0.25": {"taper": 0.25},
    "looks at depth 0": {"look_depth": 0.0},
    "looks at depth 0.25": {"look_depth": 0.25},
    "looks at depth 0.5": {"look_depth": 0.5},
    "looks at depth 0.625": {"look_depth": 0.625},
    "late step at 0.5": {"depths": (0.0, 0.5)},
    "late step at 0.75": {"depths": (0.0, 0.75)},
    "late step: log-det": {"late": "log-det"},
    "kernel: cosine": {"kernel_of": "cosine"},
    "kernel: centred cosine": {"kernel_of": "centred cosine"},
}
RIVALS = (
    "divprune, later attention",
    "mmtok, later attention",
    "scope, later attention",
    "vscan",
    "divprune",
    "tokencarve",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pages", type=int, default=100, help="of the dev split")
    parser.add_argument("--start", type=int, default=0, help="index of the first of them")
    parser.add_argument("--variants", nargs="*", default=[*VARIANTS, *RIVALS])
    parser.add_argument("--add", action="store_true", help="to the variants that are there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    pages = {"num_pages": arguments.pages, "start": arguments.start}
    questions = list(reading_questions(split="dev", **pages))
    rows = []
    if arguments.add:
        before = json.loads((FOLDER / "foveacarve-ablation.json").read_text())
        if before["pages"] != pages:
            parser.error(f"--add: the results are of {before['pages']}, not {pages}.")
        rows = [row for row in before["rows"] if row["variant"] not in arguments.variants]
    rows += ask(questions, arguments.variants)
    order = [*VARIANTS, *RIVALS]
    rows.sort(key=lambda row: (order.index(row["variant"]), -row["keep_tokens"]))
    images = [question.image_id for question in questions]
    right = {(r["variant"], r["keep_tokens"]): [x == "1" for x in r["right"]] for r in rows}
    for row in rows:
        own, keep = right[row["variant"], row["keep_tokens"]], row["keep_tokens"]
        row["accuracy"] = accuracy(own, images).to_dict()
        row["difference"] = paired_difference(own, right[OURS, keep], images).to_dict()
    write_results(
        "foveacarve-ablation",
        "FoveaCarve, part by part",
        f"{len(questions)} development questions on reading pages, embedded model, exact match in "
        "per cent; in brackets the paired difference to the method and its 95 % interval over "
        "pages. Columns: the budget of one cut before layer 0 that keeps so many of 196 tokens, in "
        "token-layers, with what reading ahead costs. Rivals in two steps cut at the method's "
        "layers, with its taper.",
        _table(rows),
        {
            "rows": rows,
            "pages": pages,
            "manifest": manifest(seed=0, rounds=1, num_questions=len(questions)),
        },
    )


def ask(questions: Sequence[Question], variants: Sequence[str]) -> list[dict[str, Any]]:
    """Every variant on every question, at every budget."""
    vlm = foveate.load_vlm("embedded", device="cpu")
    arms = [(name, keep, Run(vlm.model, arm(name, keep))) for name in variants for keep in BUDGETS]
    right = {found[:2]: "" for found in arms}
    spent = {found[:2]: 0.0 for found in arms}
    cache = ImageCache(vlm.model)
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("asking", total=-(-len(questions) // BATCH) * len(arms))
        for start in range(0, len(questions), BATCH):
            batch = questions[start : start + BATCH]
            inputs = vlm.inputs([q.question for q in batch], [q.image for q in batch])
            for name, keep, run in arms:
                known = nullcontext() if needs_the_tower(run.method) else cache.in_use()
                with known, run:
                    said = vlm.answer(inputs, max_new_tokens=8)
                for answer, question in zip(said, batch, strict=True):
                    right[name, keep] += str(int(exact_match(answer, question.answers)))
                spent[name, keep] += run.reports[-1].average_tokens * len(batch)
                progress.advance(task)
    return [
        {
            "variant": name,
            "keep_tokens": keep,
            "average_tokens": spent[name, keep] / len(questions),
            "right": right[name, keep],
        }
        for name, keep, _ in arms
    ]


def arm(name: str, keep: int) -> Method:
    """A variant or a rival at the token-layers of a cut before layer 0."""
    if name in VARIANTS:
        return Variant(keep_tokens=keep, prune_layer=0, **VARIANTS[name])
    first, _, later = name.partition(", later ")
    if not later:
        layer = {} if first == "vscan" else {"prune_layer": 0}
        layer |= {"where": "encoder"} if first == "tokencarve" else {}
        return foveate.method(first, keep_tokens=keep, **layer)
    spans = spans_of((0, LATE), NUM_LAYERS)
    early, late = tapered_counts(keep * NUM_LAYERS, NUM_TOKENS, spans, FoveaCarve.taper)
    return foveate.Stack(
        stages=(
            foveate.method(first, keep_tokens=early, prune_layer=0),
            foveate.FastV(keep_tokens=late, prune_layer=LATE),
        )
    )


def _table(rows: Sequence[dict[str, Any]]) -> list[str]:
    names = list(dict.fromkeys(row["variant"] for row in rows))

    def cell(name: str, keep: int) -> str:
        (row,) = [r for r in rows if r["variant"] == name and r["keep_tokens"] == keep]
        value = 100 * row["accuracy"]["value"]
        if name == OURS:
            return f"{value:.1f}"
        gap, low, high = (100 * row["difference"][k] for k in ("value", "low", "high"))
        return f"{value:.1f} ({gap:+.1f} [{low:+.0f}, {high:+.0f}])"

    heads = [f"{keep} tokens" for keep in BUDGETS]
    return [
        f"| variant | {' | '.join(heads)} |",
        f"|---|{'---:|' * len(heads)}",
        *(f"| {name} | {' | '.join(cell(name, b) for b in BUDGETS)} |" for name in names),
    ]


if __name__ == "__main__":
    main()
