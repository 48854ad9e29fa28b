"""HiPrune: objects from a middle layer of the tower, registers from a deep one (2508.00553)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from foveate.carve.method import Method
from foveate.carve.needs import Need
from foveate.core.plan import KeepPlan, keep_only
from foveate.core.rank import top_k
from foveate.core.visual import VisualTokens
from foveate.errors import MethodError


@dataclass(frozen=True, kw_only=True)
class HiPrune(Method):
    """Anchors, their neighbours, and registers, by attention received in the tower alone.

    round(K alpha / 5) anchors receive most attention in a middle layer of the tower, which attends
    to objects (Liu et al. 2025). They stay with their left, right, upper and lower neighbours; the
    rest of the budget K is what receives most in the last used layer. Attention received is the
    mean over heads and over all queries, a CLS token among them.

    Without a single token grid, neighbours are those before and behind in reading order.

    Args:
        alpha: share of the budget for anchors and neighbours, in [0, 1]; never more than whole
            groups of five fit.
        object_layer: of the tower, from 0; None is 9 of 24, in proportion.
        wrap_rows: as in the authors' code a place left of the first column is the last of the row
            above, and a place beyond the image its first or last; False leaves such places out.
    """

    name = "hiprune"
    summary = "keeps anchors of a middle tower layer with their neighbours, and deep registers"
    paper = "arXiv:2508.00553"
    fidelity = (
        "as the authors' code at Danielement321/HiPrune@6e83a12, where neighbours wrap over row "
        "ends (wrap_rows)"
    )
    where = "encoder"
    default_layer = 0

    alpha: float = 0.1
    object_layer: int | None = None
    wrap_rows: bool = True

    def __post_init__(self) -> None:
        if not 0.0 <= self.alpha <= 1.0:
            raise MethodError(f"alpha={self.alpha} is outside [0, 1].")
        if self.object_layer is not None and self.object_layer < 0:
            raise MethodError(f"object_layer={self.object_layer} is negative; use 0 or more.")
        super().__post_init__()

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"vision_received", "vision_received_early"})

    def early_tower_layer(self, num_layers: int) -> int:
        layer = num_layers * 9 // 24 if self.object_layer is None else self.object_layer
        if layer >= num_layers:
            raise MethodError(
                f"object_layer={layer} is outside the {num_layers} layers of the vision tower; "
                f"use {num_layers - 1} or less."
            )
        return layer

    def plan(self, visual: VisualTokens, keep: int) -> KeepPlan:
        assert visual.vision_received is not None
        assert visual.vision_received_early is not None
        early, deep = visual.vision_received_early, visual.vision_received
        num_anchors = min(round(keep * self.alpha / 5), keep // 5)
        anchors = top_k(early, num_anchors)  # [G, A]
        stays = torch.zeros_like(deep, dtype=torch.bool).scatter_(1, anchors, True)
        grids = visual.grids or (None,) * visual.num_images
        for image, grid in enumerate(grids):
            stays[image, self._neighbours(anchors[image], grid, visual.num_tokens)] = True
        chosen = top_k(deep.masked_fill(stays, torch.inf), keep)
        return keep_only(
            chosen, visual.num_tokens, {"object attention": early, "deep attention": deep}
        )

    def _neighbours(self, anchors: Tensor, grid: tuple[int, int] | None, n: int) -> Tensor:
        """Left, right, upper and lower places of one image's anchors [A]."""
        columns = n if grid is None else grid[1]
        steps = [-1, 1] if grid is None else [-1, 1, -columns, columns]
        places = torch.stack([anchors + step for step in steps])
        if self.wrap_rows:
            return places.clamp(0, n - 1).flatten()
        column = places % columns
        is_beside = (column - anchors % columns).abs() <= 1
        return places[is_beside & (places >= 0) & (places < n)]
