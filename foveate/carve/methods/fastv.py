"""FastV: keep the tokens that the last prompt token attends to (Chen et al., arXiv:2403.06764)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from foveate.carve.method import Method
from foveate.carve.needs import Need
from foveate.core.plan import KeepPlan, keep_only
from foveate.core.rank import top_k
from foveate.core.visual import VisualTokens


@dataclass(frozen=True, kw_only=True)
class FastV(Method):
    """score_i = mean over heads of the attention from the last prompt token to token i.

    The paper's text averages the attention a token receives; its code reads the last query's row
    (issue 14 of its repository). This follows the code.
    """

    name = "fastv"
    summary = "keeps the tokens the last prompt token attends to"
    paper = "arXiv:2403.06764"
    fidelity = (
        "as the authors' code at pkunlp-icler/FastV@d165972, which leaves the cache of the layers "
        "before the cut whole"
    )

    early_cache: Literal["compact", "full"] = "full"

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"attention"})

    def plan(self, visual: VisualTokens, keep: int) -> KeepPlan:
        assert visual.attention is not None
        score = visual.attention.mean(dim=1)  # [G, N]
        return keep_only(top_k(score, keep), visual.num_tokens, {"attention": score})
