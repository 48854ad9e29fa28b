"""DART: keep what least duplicates a few pivots (Wen et al., arXiv:2502.11494)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from foveate.carve.method import Method, Need
from foveate.core.plan import KeepPlan, keep_only
from foveate.core.rank import top_k
from foveate.core.similarity import cosine
from foveate.core.visual import VisualTokens
from foveate.errors import MethodError


@dataclass(frozen=True, kw_only=True)
class Dart(Method):
    """Duplication-aware reduction: pivots, then for each pivot the tokens least like it.

    The duplication score of token i to pivot p is cos(x_i, x_p). Pivots are the visual and text
    tokens of the largest norm; the paper ranks them by the norm of their keys and finds the choice
    of pivots hardly matters, so the residual stream's norm serves here and no key is needed.

    Args:
        visual_pivots: visual tokens that are pivots, and kept. Never more than the budget.
        text_pivots: text tokens that are pivots.
    """

    name = "dart"
    summary = "keeps the tokens least like a few visual and text pivots"
    paper = "arXiv:2502.11494"
    fidelity = (
        "differs from the authors' code at its last commit: pivots by the states' norms, not the "
        "keys', one token a turn, states without the norm, pivots within the budget"
    )

    visual_pivots: int = 4
    text_pivots: int = 4

    def __post_init__(self) -> None:
        if self.visual_pivots < 1 or self.text_pivots < 0:
            raise MethodError(
                f"visual_pivots={self.visual_pivots}, text_pivots={self.text_pivots}; "
                "use at least 1 and 0."
            )
        super().__post_init__()

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"text"} if self.text_pivots else set())

    def plan(self, visual: VisualTokens, keep: int) -> KeepPlan:
        hidden = visual.hidden.float()
        pivots = top_k(hidden.norm(dim=-1), min(self.visual_pivots, keep))  # [G, P]
        features = hidden.gather(1, pivots.unsqueeze(-1).expand(-1, -1, hidden.shape[-1]))
        likeness = cosine(features, hidden)  # [G, P, N]
        valid = torch.ones_like(pivots, dtype=torch.bool)
        if self.text_pivots and visual.text is not None and visual.text.shape[1]:
            assert visual.text_mask is not None
            norms = visual.text.float().norm(dim=-1).masked_fill(~visual.text_mask, -1.0)
            text = top_k(norms, min(self.text_pivots, norms.shape[1]))
            features = visual.text.gather(
                1, text.unsqueeze(-1).expand(-1, -1, visual.text.shape[-1])
            )
            likeness = torch.cat([likeness, cosine(features, hidden)], dim=1)
            valid = torch.cat([valid, norms.gather(1, text) >= 0], dim=1)
        return keep_only(self._take_turns(likeness, valid, pivots, keep), visual.num_tokens)

    @staticmethod
    def _take_turns(likeness: Tensor, valid: Tensor, pivots: Tensor, keep: int) -> Tensor:
        """Pivots take turns in choosing the token least like them that is still there. [G, keep]"""
        num_sets, num_pivots, _ = likeness.shape
        rows = torch.arange(num_sets, device=likeness.device)
        # An absent text pivot (a shorter prompt in the batch) chooses as the first pivot would.
        owner = torch.where(valid, torch.arange(num_pivots, device=valid.device), 0)
        likeness = likeness.gather(1, owner.unsqueeze(-1).expand_as(likeness)).clone()
        taken = torch.zeros(likeness.shape[0], likeness.shape[2], dtype=torch.bool)
        taken = taken.to(likeness.device).scatter_(1, pivots, True)
        chosen = [pivots]
        # Whose turn it is must not depend on the longest prompt of the batch.
        order = torch.sort((~valid).to(torch.uint8), dim=1, stable=True).indices
        counts = valid.sum(dim=1)
        for turn in range(keep - pivots.shape[1]):
            whose = order[rows, turn % counts]
            best = likeness[rows, whose].masked_fill(taken, torch.inf).argmin(dim=-1)
            taken[rows, best] = True
            chosen.append(best.unsqueeze(1))
        return torch.cat(chosen, dim=1)
