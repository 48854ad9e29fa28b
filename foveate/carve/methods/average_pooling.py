"""Average pooling: every token is merged into the nearest of an evenly spaced grid."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from foveate.carve.methods.uniform import UniformGrid
from foveate.core.greedy.pairs import ROWS
from foveate.core.plan import KeepPlan
from foveate.core.visual import VisualTokens


@dataclass(frozen=True, kw_only=True)
class AveragePooling(UniformGrid):
    """Pool the image into `keep` cells around the tokens UniformGrid keeps (Voronoi cells on the
    grid).

    With a budget that divides the grid this is plain average pooling, as in LLaVolta
    (arXiv:2406.20092); any other budget works too. Nothing is dropped, all is averaged.
    """

    name = "pooling"
    summary = "averages the image into an evenly spaced grid (baseline)"
    paper = "arXiv:2406.20092"
    fidelity = "the paper's pooling without its training"
    merges_tokens = True

    def plan(self, visual: VisualTokens, keep: int) -> KeepPlan:
        keep_idx = super().plan(visual, keep).keep_idx
        grids = visual.grids or (None,) * visual.num_images
        pairs = [
            self._nearest(visual.num_tokens, grid, kept)
            for grid, kept in zip(grids, keep_idx.cpu(), strict=True)
        ]
        device = visual.hidden.device
        return KeepPlan(
            num_tokens=visual.num_tokens,
            keep_idx=keep_idx,
            merge_src=torch.stack([src for src, _ in pairs]).to(device),
            merge_dst=torch.stack([dst for _, dst in pairs]).to(device),
        )

    @staticmethod
    def _nearest(
        num_tokens: int, grid: tuple[int, int] | None, kept: Tensor
    ) -> tuple[Tensor, Tensor]:
        columns = grid[1] if grid is not None else num_tokens
        every = torch.arange(num_tokens)
        place = torch.stack([every // columns, every % columns], dim=-1).float()
        is_source = torch.ones(num_tokens, dtype=torch.bool)
        is_source[kept] = False
        source = every[is_source]
        # A few sources at a time: all distances are a gigabyte where there are 16,384 tokens.
        nearest = [
            torch.cdist(part, place[kept]).argmin(dim=-1)
            for part in torch.split(place[source], ROWS)
        ]
        return source, kept[torch.cat(nearest)]
