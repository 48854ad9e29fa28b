"""DivPrune: keep the most diverse tokens (Alvar et al., arXiv:2503.02175)."""

from __future__ import annotations

from dataclasses import dataclass

from foveate.carve.method import Method
from foveate.core.cosine_distance import CosineDistance
from foveate.core.farthest import farthest_points
from foveate.core.plan import KeepPlan, keep_only
from foveate.core.visual import VisualTokens


@dataclass(frozen=True, kw_only=True)
class DivPrune(Method):
    """Greedy solution of the max-min diversity problem with cosine distance d = 1 - cos.

    Acts before the language model by default, as in the paper; reads no attention.
    """

    name = "divprune"
    summary = "keeps the most diverse tokens (max-min cosine distance)"
    paper = "arXiv:2503.02175"
    fidelity = "as the authors' code at vbdi/divprune@799e2d9"
    where = "encoder"
    default_layer = 0

    def plan(self, visual: VisualTokens, keep: int) -> KeepPlan:
        chosen = farthest_points(CosineDistance(visual.hidden), keep)
        return keep_only(chosen, visual.num_tokens)
