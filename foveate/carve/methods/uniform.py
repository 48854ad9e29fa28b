"""Uniform grid: keep evenly spaced tokens, blind to the image and the question."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from foveate.carve.method import Method
from foveate.core.layout import sent
from foveate.core.plan import KeepPlan, keep_only
from foveate.core.visual import VisualTokens


def spaced(n: int, k: int) -> Tensor:
    """k indices evenly spaced over range(n), at the centres of k equal cells. [k] int64"""
    return ((torch.arange(k, dtype=torch.float64) + 0.5) * n / k).floor().long()


def grid_shape(rows: int, columns: int, keep: int) -> tuple[int, int]:
    """Coarse grid with at most `keep` cells, as many as possible, cells as square as possible."""
    best = (0, math.inf, 1, 1)
    for r in range(1, min(rows, keep) + 1):
        c = min(columns, keep // r)
        squareness = abs(math.log((rows / r) / (columns / c)))
        best = min(best, (-r * c, squareness, r, c))
    return best[2], best[3]


@dataclass(frozen=True, kw_only=True)
class UniformGrid(Method):
    """Keep a coarse, evenly spaced grid; the few tokens that no full grid holds are spread evenly.

    Images without a single token grid (tiles, unknown) are sampled evenly in reading order.
    """

    name = "uniform"
    summary = "keeps an evenly spaced grid (baseline)"

    def plan(self, visual: VisualTokens, keep: int) -> KeepPlan:
        grids = visual.grids or (None,) * visual.num_images
        chosen = torch.stack([self._choose(visual.num_tokens, grid, keep) for grid in grids])
        return keep_only(sent(chosen, visual.hidden.device), visual.num_tokens)

    @staticmethod
    def _choose(num_tokens: int, grid: tuple[int, int] | None, keep: int) -> Tensor:
        if grid is None:
            return spaced(num_tokens, keep)
        rows, columns = grid
        r, c = grid_shape(rows, columns, keep)
        cells = (spaced(rows, r).unsqueeze(1) * columns + spaced(columns, c)).flatten()
        free = torch.ones(num_tokens, dtype=torch.bool)
        free[cells] = False
        left = free.nonzero(as_tuple=True)[0]
        return torch.cat([cells, left[spaced(left.numel(), keep - cells.numel())]])
