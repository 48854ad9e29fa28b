"""The information score against a full SVD: time ratio and agreement of the kept sets.

`python -m benchmarks.information_score` writes docs/results/information-score.json and .md.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.results import write_results
from benchmarks.timed import ratio_cell, timed
from foveate.core.information import INFORMATION_SCORES
from foveate.core.rank import borda, top_k
from foveate.measure.manifest import manifest
from foveate.measure.timing import ratio_of_medians, wall_seconds

TOKENS, WIDTH = 576, 4096
BUDGETS = (192, 128, 64)


def decaying(seed: int) -> Tensor:
    """Singular values that fall as 1 / rank, with a log-normal row scale."""
    generator = torch.Generator().manual_seed(seed)
    u = torch.linalg.qr(torch.randn(TOKENS, TOKENS, generator=generator)).Q
    v = torch.linalg.qr(torch.randn(WIDTH, TOKENS, generator=generator)).Q
    x = (u * (100.0 / torch.arange(1, TOKENS + 1))) @ v.T
    return x * (0.35 * torch.randn(TOKENS, 1, generator=generator)).exp()


def noisy(seed: int) -> Tensor:
    """Low rank + noise + log-normal row scale + a few outlier rows and columns, as LLMs have."""
    generator = torch.Generator().manual_seed(seed)
    rank = TOKENS // 24
    x = torch.randn(TOKENS, rank, generator=generator) @ torch.randn(
        rank, WIDTH, generator=generator
    ) / rank**0.5 + 0.35 * torch.randn(TOKENS, WIDTH, generator=generator)
    x *= (0.35 * torch.randn(TOKENS, 1, generator=generator)).exp()
    x[:, torch.randperm(WIDTH, generator=generator)[:3]] *= 4
    x[torch.randperm(TOKENS, generator=generator)[:5]] *= 3
    return x


def full_svd(x: Tensor) -> Tensor:
    """What the paper's definition costs when taken literally."""
    u, s, _ = torch.linalg.svd(x, full_matrices=True)
    return (u[:, : s.numel()] * s).abs().sum(-1)


def kept_overlap(
    score: Callable[[Tensor], Tensor], make: Callable[[int], Tensor], seeds: range
) -> float:
    """Smallest share of TokenCarve's ranked set (1.5 T) that agrees with the exact score's."""
    worst = 1.0
    for seed in seeds:
        x = make(seed)
        attention = torch.rand(TOKENS, generator=torch.Generator().manual_seed(seed))
        exact = INFORMATION_SCORES["exact"](x)
        approximate = score(x)
        for keep in BUDGETS:
            size = keep + keep // 2
            a, b = (
                set(top_k(borda(attention, s.double(), 0.5), size).tolist())
                for s in (exact, approximate)
            )
            worst = min(worst, len(a & b) / size)
    return worst


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    x = noisy(0)
    scores: dict[str, Callable[[Tensor], Tensor]] = {"full SVD": full_svd, **INFORMATION_SCORES}
    seconds = timed(
        "scores",
        {name: partial(wall_seconds, partial(score, x)) for name, score in scores.items()},
        rounds=arguments.rounds,
    )
    rows = []
    for name, score in scores.items():
        faster = ratio_of_medians(seconds["full SVD"], seconds[name])
        rows.append(
            {
                "score": name,
                "times_faster_than_full_svd": faster.to_dict(),
                "worst_overlap_noisy": kept_overlap(score, noisy, range(3)),
                "worst_overlap_decaying": kept_overlap(score, decaying, range(3)),
            }
        )
    table = [
        "| score | times faster than the full SVD (95 %) | worst overlap, noisy | decaying |",
        "|---|---|---|---|",
        *(
            f"| {r['score']} | {ratio_cell(r['times_faster_than_full_svd'], '.1f')} | "
            f"{r['worst_overlap_noisy']:.3f} | {r['worst_overlap_decaying']:.3f} |"
            for r in rows
        ),
    ]
    write_results(
        "information-score",
        "Information score of 576 x 4096 hidden states",
        "Synthetic hidden states, fp32, one thread by default. Overlap: smallest share of the "
        "R = 1.5 T tokens ranked best that agrees with the exact score, over T = 192, 128, 64 and "
        "three seeds; noisy: low rank, flat noise, outliers; decaying: singular values fall as "
        "1 / rank.",
        table,
        {"rows": rows, "manifest": manifest(seed=0, rounds=arguments.rounds)},
    )


if __name__ == "__main__":
    main()
