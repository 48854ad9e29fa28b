"""DART: keep what least duplicates a few pivots (Wen et al., arXiv:2502.11494)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import cycle, islice

import torch

from foveate.carve.method import Method, Need
from foveate.core.pairs import take
from foveate.core.plan import KeepPlan, keep_only
from foveate.core.rank import top_k
from foveate.core.similarity import inverse_length
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
        inverse = inverse_length(hidden)  # [G, N]
        pivots = top_k(-inverse, min(self.visual_pivots, keep))  # [G, P]
        features, valid = take(hidden, pivots), torch.ones_like(pivots, dtype=torch.bool)
        if self.text_pivots and visual.text is not None and visual.text.shape[1]:
            assert visual.text_mask is not None
            norms = torch.linalg.vector_norm(visual.text, dim=-1, dtype=torch.float32)
            norms = norms.masked_fill(~visual.text_mask, -1.0)
            text = top_k(norms, min(self.text_pivots, norms.shape[1]))
            features = torch.cat([features, take(visual.text, text).float()], dim=1)
            valid = torch.cat([valid, norms.gather(1, text) >= 0], dim=1)
        # In the order of the cosine: a pivot's own length changes nothing.
        likeness = (features @ hidden.transpose(1, 2)).mul_(inverse.unsqueeze(1))  # [G, P, N]
        # A pivot passes over less than `keep` tokens that others took.
        order = likeness.sort(dim=-1, stable=True).indices[..., :keep]
        chosen = [
            take_turns(of_image[is_there].tolist(), own, keep)
            for of_image, is_there, own in zip(
                order.cpu(), valid.cpu(), pivots.tolist(), strict=True
            )
        ]
        return keep_only(torch.tensor(chosen, device=hidden.device), visual.num_tokens)


def take_turns(orders: list[list[int]], taken: list[int], keep: int) -> list[int]:
    """Choosers in turn take the first of their order that is still there.

    Args:
        orders: of each chooser, its first `keep` tokens, best first.
        taken: before the first turn.
        keep: how many in all, with those.
    """
    chosen, is_taken = list(taken), set(taken)
    streams = [iter(order) for order in orders]
    for stream in islice(cycle(streams), keep - len(taken)):
        token = next(token for token in stream if token not in is_taken)
        is_taken.add(token)
        chosen.append(token)
    return chosen
