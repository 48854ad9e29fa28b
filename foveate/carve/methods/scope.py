"""SCOPE: cover the image, weighted by what the vision tower attends to (arXiv:2510.24214)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from foveate.carve.method import Method
from foveate.carve.needs import Need
from foveate.core.demand import Demand
from foveate.core.greedy.coverage import greedy_coverage
from foveate.core.plan import KeepPlan, keep_only
from foveate.core.similarity import self_cosine
from foveate.core.visual import VisualTokens
from foveate.errors import MethodError


@dataclass(frozen=True, kw_only=True)
class Scope(Method):
    """Saliency times coverage gain, greedily (Deng et al. 2025).

    The next token is the one of the largest

        a_i^alpha * sum_j max(0, cos(x_j, x_i) - max_{s chosen} cos(x_j, x_s)),

    x being the tower's features before the projector and a the attention of its CLS token (without
    one: the attention received on average), mean over heads.

    Args:
        alpha: how much saliency counts; 0 is coverage alone.
    """

    name = "scope"
    summary = "covers the image by few tokens, weighted by the vision tower's attention"
    paper = "arXiv:2510.24214"
    fidelity = "as the published equation (kinredon/SCOPE@6bf7306), greedy"
    where = "encoder"
    default_layer = 0

    alpha: float = 1.0

    def __post_init__(self) -> None:
        if self.alpha < 0:
            raise MethodError(f"alpha={self.alpha} is negative; use 0 or more.")
        super().__post_init__()

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"vision_attention", "vision_features"})

    def demand(self, num_images: int, num_tokens: int, width: int, keep: int) -> Demand:
        return Demand(
            what=f"the likeness of all {num_tokens:,} x {num_tokens:,} pairs",
            bytes=4 * num_tokens**2,
            instead="use divprune, which holds no pairs, or send smaller images",
        )

    def plan(self, visual: VisualTokens, keep: int) -> KeepPlan:
        assert visual.vision_attention is not None
        assert visual.vision_features is not None
        saliency = visual.vision_attention.float()
        # One image at a time: its pairs of tokens are the largest thing here.
        chosen = [
            greedy_coverage(self_cosine(features).clamp_min_(0), keep, weight)
            for features, weight in zip(
                visual.vision_features, saliency.pow(self.alpha), strict=True
            )
        ]
        return keep_only(torch.stack(chosen), visual.num_tokens, {"vision attention": saliency})
