"""DivPrune: keep the most diverse tokens (Alvar et al., arXiv:2503.02175)."""

from __future__ import annotations

from dataclasses import dataclass

from foveate.carve.method import Method
from foveate.core.demand import Demand
from foveate.core.greedy.cosine_distance import CosineDistance
from foveate.core.greedy.farthest import FEW, farthest_points
from foveate.core.plan import KeepPlan, keep_only
from foveate.core.visual import VisualTokens


@dataclass(frozen=True, kw_only=True)
class DivPrune(Method):
    """Greedy solution of the max-min diversity problem with cosine distance d = 1 - cos.

    Acts before the language model by default, as in the paper; reads no attention. Tokens less than
    1e-6 apart, which float32 cannot tell from copies, count as copies.
    """

    name = "divprune"
    summary = "keeps the most diverse tokens (max-min cosine distance)"
    paper = "arXiv:2503.02175"
    fidelity = "as the authors' code at vbdi/divprune@799e2d9"
    where = "encoder"
    default_layer = 0

    def demand(self, num_images: int, num_tokens: int, width: int, keep: int) -> Demand:
        if num_tokens > FEW:
            return super().demand(num_images, num_tokens, width, keep)
        return Demand(
            what=f"distances between {num_tokens:,} tokens of all images",
            bytes=8 * num_images * num_tokens**2,
        )

    def plan(self, visual: VisualTokens, keep: int) -> KeepPlan:
        chosen = farthest_points(CosineDistance(visual.hidden), keep)
        return keep_only(chosen, visual.num_tokens)
