"""What each part of FoveaCarve is worth, on development questions (never on those of the results).

`python -m benchmarks.foveacarve_ablation` writes docs/results/foveacarve-ablation.json and
foveacarve-ablation.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

import foveate
from benchmarks.results import write_results
from foveate.carve.engine.image_cache import ImageCache
from foveate.carve.engine.run import Run
from foveate.carve.methods import FoveaCarve
from foveate.core.cosine_distance import CosineDistance
from foveate.core.farthest import farthest_points
from foveate.core.pairs import Dense, Gram, Pairs
from foveate.core.plan import KeepPlan, keep_only
from foveate.core.rank import others, top_k
from foveate.core.similarity import best_match, cosine
from foveate.core.visual import VisualTokens
from foveate.measure.manifest import manifest
from foveate.measure.quality import accuracy, exact_match
from foveate.tasks.reading import reading_questions

BATCH = 50
# (prune_layer, keep_tokens): what a cut before layer 0 or 2 would keep of 196
BUDGETS = ((0, 98), (0, 49), (0, 12), (2, 12))


@dataclass(frozen=True, kw_only=True)
class Variant(FoveaCarve):
    """FoveaCarve with one part changed.

    Args:
        gram: "centred" (the method's kernel) or, in its place, the Gram matrix of "raw" tokens,
            their "cosine" or "centred cosine".
        first: "log-det" (the method) or "max-min cosine" (DivPrune's rule) in the blind step.
        late: "log-det" (the method) or "attention" (top-K of it) in the conditioned step.
        merges: the tokens of the blind step that go are averaged into the most similar kept one.
    """

    gram: str = "centred"
    first: str = "log-det"
    late: str = "log-det"
    merges: bool = False

    def kernel(self, visual: VisualTokens) -> Pairs:
        x = visual.hidden.double()
        centred = x - x.mean(dim=1, keepdim=True)
        if self.gram == "raw":
            return Gram(x)
        if self.gram == "cosine":
            return Dense(cosine(x, x))
        if self.gram == "centred cosine":
            return Dense(cosine(centred, centred))
        return super().kernel(visual)

    def plan(self, visual: VisualTokens, keep: int) -> KeepPlan:
        n = visual.num_tokens
        if visual.attention is not None:
            if self.late == "attention":
                return keep_only(top_k(visual.attention.mean(dim=1), keep), n)
            return super().plan(visual, keep)
        if self.first == "max-min cosine":
            return keep_only(farthest_points(CosineDistance(visual.hidden), keep), n)
        plan = super().plan(visual, keep)
        if not self.merges:
            return plan
        src = others(plan.keep_idx, n)

        def rows(index: Tensor) -> Tensor:
            wide = index.unsqueeze(-1).expand(-1, -1, visual.hidden.shape[-1])
            return visual.hidden.gather(1, wide)

        _, nearest = best_match(rows(src), rows(plan.keep_idx))
        return KeepPlan(
            num_tokens=n,
            keep_idx=plan.keep_idx,
            merge_src=src,
            merge_dst=plan.keep_idx.gather(1, nearest),
        )


VARIANTS: dict[str, dict[str, Any]] = {
    "the method": {},
    "one step (depth 0)": {"depths": (0.0,)},
    "three steps (0, 0.5, 0.75)": {"depths": (0.0, 0.5, 0.75)},
    "late step at 0.5": {"depths": (0.0, 0.5)},
    "late step at 0.75": {"depths": (0.0, 0.75)},
    "no cap (enough = 1)": {"enough": 1.0},
    "enough = 0.3": {"enough": 0.3},
    "kernel: C C^T alone (g = 0)": {"gaussian": 0.0},
    "kernel: g = 0.3": {"gaussian": 0.3},
    "kernel: g = 3": {"gaussian": 3.0},
    "kernel: Gaussian alone (g = 1e6)": {"gaussian": 1e6},
    "kernel: not centred": {"gram": "raw"},
    "kernel: cosine": {"gram": "cosine"},
    "kernel: centred cosine": {"gram": "centred cosine"},
    "first step: max-min cosine": {"first": "max-min cosine"},
    "late step: top attention": {"late": "attention"},
    "late step: blind (p = 0)": {"relevance_power": 0.0},
    "late step: p = 2": {"relevance_power": 2.0},
    "merge instead of drop": {"merges": True},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pages", type=int, default=200, help="of the dev split, 4 questions each")
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    vlm = foveate.load_vlm("embedded", device="cpu")
    questions = list(reading_questions(split="dev", num_pages=arguments.pages))
    images = [question.image_id for question in questions]
    arms = [
        (name, layer, keep, Run(vlm.model, _variant(name, layer, keep)))
        for name in arguments.variants
        for layer, keep in BUDGETS
    ]
    right: dict[tuple[str, int, int], list[bool]] = {arm[:3]: [] for arm in arms}
    cache = ImageCache(vlm.model)
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("asking", total=-(-len(questions) // BATCH) * len(arms))
        for start in range(0, len(questions), BATCH):
            batch = questions[start : start + BATCH]
            inputs = vlm.inputs([q.question for q in batch], [q.image for q in batch])
            with cache.in_use():
                for name, layer, keep, run in arms:
                    with run:
                        said = vlm.answer(inputs, max_new_tokens=8)
                    right[name, layer, keep] += [
                        exact_match(a, q.answers) for a, q in zip(said, batch, strict=True)
                    ]
                    progress.advance(task)
    rows = [
        {
            "variant": name,
            "prune_layer": layer,
            "keep_tokens": keep,
            "tokens_per_layer": list(run.reports[-1].tokens_per_layer),
            "accuracy": accuracy(right[name, layer, keep], images).to_dict(),
        }
        for name, layer, keep, run in arms
    ]
    write_results(
        "foveacarve-ablation",
        "FoveaCarve, part by part",
        f"{len(questions)} development questions on reading pages, embedded model, exact match in "
        "per cent, 95 % intervals over pages. Columns: the budget of one cut before layer 0 or 2 "
        "that keeps so many of 196 tokens.",
        _table(rows, arguments.variants),
        {"rows": rows, "manifest": manifest(seed=0, rounds=1, num_questions=len(questions))},
    )


def _variant(name: str, layer: int, keep: int) -> Variant:
    return Variant(keep_tokens=keep, prune_layer=layer, **VARIANTS[name])


def _table(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> list[str]:
    def cell(name: str, budget: tuple[int, int]) -> str:
        found = next(
            r["accuracy"]
            for r in rows
            if r["variant"] == name and (r["prune_layer"], r["keep_tokens"]) == budget
        )
        value, low, high = (100 * found[k] for k in ("value", "low", "high"))
        return f"{value:.1f} [{low:.0f}, {high:.0f}]"

    heads = [f"{keep} from layer {layer}" for layer, keep in BUDGETS]
    return [
        f"| variant | {' | '.join(heads)} |",
        f"|---|{'---:|' * len(heads)}",
        *(f"| {name} | {' | '.join(cell(name, b) for b in BUDGETS)} |" for name in names),
    ]


if __name__ == "__main__":
    main()
