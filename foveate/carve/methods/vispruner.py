"""VisPruner: what the tower attends to, and of the rest what differs most (arXiv:2412.01818)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from foveate.carve.method import Method
from foveate.carve.needs import Need
from foveate.core.nearest import Neighbours
from foveate.core.plan import KeepPlan, keep_only
from foveate.core.rank import descending_order
from foveate.core.visual import VisualTokens
from foveate.errors import MethodError


@dataclass(frozen=True, kw_only=True)
class VisPruner(Method):
    """Important tokens by attention, diverse ones by removing duplicates (Zhang et al. 2024).

    The important tokens are those that the tower's CLS token attends to most (without one: those
    that receive most attention). The others, in descending order of attention, are dealt into even
    and odd places again and again; each time the even ones that are most like an odd one go, by the
    cosine of the tower's features before the projector, and what is left of them, by descending
    likeness, comes before the odd ones in the next deal.

    An odd number of others, where the authors' code stops with an error, is dealt as it comes: one
    place more is even.

    Args:
        important_share: share of the budget that is important tokens, in [0, 1].
        removed: most that go in a round.
    """

    name = "vispruner"
    summary = "keeps what the vision tower attends to and, of the rest, what differs most"
    paper = "arXiv:2412.01818"
    fidelity = (
        "as the authors' code at Theia-4869/VisPruner@aefa01a; odd numbers of other tokens, an "
        "error there, work"
    )
    where = "encoder"
    default_layer = 0

    important_share: float = 0.5
    removed: int = 8

    def __post_init__(self) -> None:
        if not 0.0 <= self.important_share <= 1.0:
            raise MethodError(f"important_share={self.important_share} is outside [0, 1].")
        if self.removed < 1:
            raise MethodError(f"removed={self.removed} is below 1; raise it.")
        super().__post_init__()

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"vision_attention", "vision_features"})

    def plan(self, visual: VisualTokens, keep: int) -> KeepPlan:
        assert visual.vision_attention is not None
        assert visual.vision_features is not None
        num_important = int(self.important_share * keep)
        order = descending_order(visual.vision_attention)
        important, rest = order[:, :num_important], order[:, num_important:]
        count = keep - num_important
        features = visual.vision_features
        diverse = torch.stack(
            [self._without_duplicates(x, own, count) for x, own in zip(features, rest, strict=True)]
        )
        return keep_only(
            torch.cat([important, diverse], dim=1),
            visual.num_tokens,
            {"vision attention": visual.vision_attention},
        )

    def _without_duplicates(self, features: Tensor, rest: Tensor, count: int) -> Tensor:
        """`count` of one image's tokens `rest` [R], whose features are [N, D]. [count]"""
        if count == 0:
            return rest[:0]
        neighbours = Neighbours(features)
        while len(rest) > count:
            even, odd = rest[::2], rest[1::2]
            closest_first = even[descending_order(neighbours.likeness(even, odd))]
            goes = min(self.removed, len(rest) - count, len(even))
            rest = torch.cat([closest_first[goes:], odd])
        return rest
