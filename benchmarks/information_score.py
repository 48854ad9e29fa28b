"""The information score and its approximations: time, kept sets, and answers.

Kept sets are compared on made-up states and on those of the embedded model; answers are the
embedded model's on held-out questions, each form of the score at the same budgets, with random and
uniform pruning as the controls.
`python -m benchmarks.information_score` writes docs/results/information-score.json and .md.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

import foveate
from benchmarks.results import write_results
from benchmarks.synthetic_states import decaying, noisy
from benchmarks.timed import ratio_cell, timed
from foveate.carve.compare.comparison import CompareSettings, Comparison
from foveate.carve.compare.run import compare
from foveate.core.budget import Budget
from foveate.core.information import INFORMATION_SCORES
from foveate.core.rank import borda, top_k
from foveate.measure.manifest import manifest
from foveate.measure.timing import ratio_of_medians, wall_seconds
from foveate.models.vlm import VisionLanguageModel
from foveate.tasks.named import load_questions

Score = Callable[[Tensor], Tensor]

SHARES = (1 / 3, 2 / 9, 1 / 9)  # 192, 128 and 64 of 576
SMALL, LARGE = (576, 4096), (4096, 3584)
BUDGETS = (0.5, 0.25, 0.125)
QUESTIONS = {"reading": 800, "easy-vqa": 400}
FORMS = tuple(f"tokencarve(information_score={form})" for form in INFORMATION_SCORES)
BATCH = 50


def full_svd(x: Tensor) -> Tensor:
    """What the paper's definition costs when taken literally."""
    u, s, _ = torch.linalg.svd(x, full_matrices=True)
    return (u[:, : s.numel()] * s).abs().sum(-1)


def agreement(exact: Tensor, approximate: Tensor, seed: int) -> float:
    """Smallest share of TokenCarve's ranked set (1.5 T) that two scores agree on. Both [N]"""
    num_tokens = len(exact)
    attention = torch.rand(num_tokens, generator=torch.Generator().manual_seed(seed))
    worst = 1.0
    for share in SHARES:
        keep = round(share * num_tokens)
        size = keep + keep // 2
        a, b = (
            set(top_k(borda(attention, score.double(), 0.5), size).tolist())
            for score in (exact, approximate)
        )
        worst = min(worst, len(a & b) / size)
    return worst


def layer_states(vlm: VisionLanguageModel, layer: int, count: int = 8) -> list[Tensor]:
    """States of `count` pages as they enter a decoder layer of the embedded model, [196, D]."""
    questions = load_questions("reading", limit=4 * count)[::4]
    inputs = vlm.inputs([q.question for q in questions], [q.image for q in questions])
    is_visual = inputs["input_ids"] == vlm.model.config.image_token_id
    with torch.no_grad():
        states = vlm.model(**inputs, output_hidden_states=True).hidden_states[layer]
    return [row[mask].float() for row, mask in zip(states, is_visual, strict=True)]


def measured(
    shape: tuple[int, int],
    scores: dict[str, Score],
    sets: dict[str, Sequence[Tensor]],
    rounds: int,
) -> list[dict[str, Any]]:
    """Times on `noisy` states of a shape against the first score's, and agreement on all `sets`."""
    x = noisy(*shape, seed=0)
    seconds = timed(
        f"scores of {shape[0]} tokens",
        {name: partial(wall_seconds, partial(score, x)) for name, score in scores.items()},
        rounds=rounds,
    )
    first = next(iter(scores))
    exact = {what: [INFORMATION_SCORES["exact"](x) for x in xs] for what, xs in sets.items()}
    return [
        {
            "num_tokens": shape[0],
            "width": shape[1],
            "score": name,
            "times_faster": {"than": first}
            | ratio_of_medians(seconds[first], seconds[name]).to_dict(),
            "worst_agreement": {
                what: min(
                    agreement(e, score(x), seed)
                    for seed, (x, e) in enumerate(zip(xs, exact[what], strict=True))
                )
                for what, xs in sets.items()
            },
        }
        for name, score in scores.items()
    ]


def answered(vlm: VisionLanguageModel, data: str, limit: int) -> Comparison:
    """All forms and the controls on held-out questions, paired with the exact form."""
    settings = CompareSettings(
        methods=FORMS,
        budgets=tuple(Budget(keep_ratio=ratio) for ratio in BUDGETS),
        against=FORMS[0],
        max_new_tokens=8,
        batch_size=BATCH,
        rounds=0,
    )
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task(data, total=1)
        return compare(
            vlm,
            load_questions(data, limit=limit),
            settings,
            data=data,
            progress=lambda _, done, total: progress.update(task, completed=done, total=total),
        )


def states_table(rows: Sequence[dict[str, Any]]) -> list[str]:
    kinds = list(rows[0]["worst_agreement"])
    size = f"{rows[0]['num_tokens']} x {rows[0]['width']}"
    return [
        f"| score of {size} | times faster than {rows[0]['score']} (95 %) | {' | '.join(kinds)} |",
        f"|---|---:|{'---:|' * len(kinds)}",
        *(
            f"| {r['score']} | {ratio_cell(r['times_faster'], '.1f')} | "
            + " | ".join(f"{r['worst_agreement'][kind]:.3f}" for kind in kinds)
            + " |"
            for r in rows
        ),
    ]


def answers_table(comparison: Comparison) -> list[str]:
    """A line per method; in each cell accuracy, and its difference to the exact form."""
    facts = comparison.manifest
    by_method: dict[str, list[str]] = {}
    for row in comparison.rows:
        cell = f"{100 * row.accuracy.value:.1f}"
        if row.against is not None:
            gap = row.against
            cell += f" ({100 * gap.value:+.1f}: {100 * gap.low:+.1f} to {100 * gap.high:+.1f})"
        by_method.setdefault(row.method, []).append(cell)
    (full,), (blind,) = by_method.pop("full"), by_method.pop("blind")
    return [
        f"{facts['data']}: {facts['num_questions']} held-out questions about "
        f"{facts['num_images']} images; everything kept {full}, no image {blind}.",
        "",
        f"| method | {' | '.join(f'{100 * budget:g} %' for budget in BUDGETS)} |",
        f"|---|{'---:|' * len(BUDGETS)}",
        *(f"| {method} | {' | '.join(cells)} |" for method, cells in by_method.items()),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data", nargs="*", default=list(QUESTIONS), choices=list(QUESTIONS))
    parser.add_argument("--questions", type=int, help="of each data set; default: 800 and 400")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    vlm = foveate.load_vlm("embedded", device="cpu")

    small = measured(
        SMALL,
        {"full SVD": full_svd, **INFORMATION_SCORES},
        {
            "noisy": [noisy(*SMALL, seed=seed) for seed in range(3)],
            "decaying": [decaying(*SMALL, seed=seed) for seed in range(3)],
            "embedded, layer 2": layer_states(vlm, 2),
            "embedded, layer 5": layer_states(vlm, 5),
        },
        arguments.rounds,
    )
    large = measured(
        LARGE,
        dict(INFORMATION_SCORES),
        {"noisy": [noisy(*LARGE, seed=0)], "decaying": [decaying(*LARGE, seed=0)]},
        rounds=min(2, arguments.rounds),
    )
    comparisons = [
        answered(vlm, data, arguments.questions or QUESTIONS[data]) for data in arguments.data
    ]
    table = [*states_table(small), "", *states_table(large)]
    for comparison in comparisons:
        table += ["", *answers_table(comparison)]
    write_results(
        "information-score",
        "Information score: exact and approximate",
        "fp32, one thread by default. The first two tables: time on synthetic hidden states, and "
        "the smallest share of the R = 1.5 T tokens ranked best that agrees with the exact score, "
        "over T = 1/3, 2/9, 1/9 of the tokens (192, 128, 64 of 576) and all images. Noisy: low "
        "rank, flat noise, outliers; decaying: singular values fall as 1 / rank; embedded: 196 "
        "tokens of 8 pages as they enter that layer of the embedded model. `auto` is exact up to "
        "1,024 on a CPU, so the form is forced here. Subspace: rank 64, two iterations.\n\n"
        "The others: TokenCarve at layer 2 of the embedded model, exact match in per cent; in "
        "brackets the difference to the exact score on the same questions, 95 % intervals over "
        "images. 64 directions are a third of the embedded model's width and a fiftieth of a 7B "
        "model's.",
        table,
        {
            "rows": [*small, *large],
            "answers": [comparison.to_dict() for comparison in comparisons],
            "manifest": manifest(seed=0, rounds=arguments.rounds),
        },
    )


if __name__ == "__main__":
    main()
