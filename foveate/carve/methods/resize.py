"""Resize first: a smaller image, the baseline that embarrasses many methods (VTC-Bench)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from foveate.carve.tower_method import TowerResizing


@dataclass(frozen=True, kw_only=True)
class ResizeFirst(TowerResizing):
    """Downsample the image so that it has at most `keep` patches (bicubic, antialiased).

    The vision tower runs on the small image with interpolated position embeddings; its tokens
    stand in the prompt where the middles of their patches stood. The budget is a ceiling: the grid
    keeps the image's proportions to within a fifth, so a few tokens may stay unused.
    """

    name = "resize"
    summary = "makes the image smaller first (baseline)"
    paper = "arXiv:2510.07143"
    fidelity = "the paper's control without its processor"

    def grid(self, rows: int, columns: int, keep: int) -> tuple[int, int]:
        best = (0, math.inf, 1, 1)
        for r in range(1, min(rows, keep) + 1):
            c = min(columns, keep // r)
            stretch = abs(math.log((rows / r) / (columns / c)))
            # Out of proportion counts only where nothing else fits.
            size = r * c if stretch <= math.log(1.2) else 0
            best = min(best, (-size, stretch, r, c))
        return best[2], best[3]
