"""HoloV: the budget is shared out over crops of the image (Zou et al., arXiv:2510.02912)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from foveate.carve.method import Method
from foveate.carve.needs import Need
from foveate.core.plan import KeepPlan, keep_only
from foveate.core.rank import descending_rank, top_k
from foveate.core.similarity import cosine
from foveate.core.visual import VisualTokens
from foveate.errors import MethodError

_SCALE = 1e3  # of attention, as published; it has no effect on what is kept
_TINY = 1e-6


@dataclass(frozen=True, kw_only=True)
class HoloV(Method):
    """Crops of consecutive tokens get shares of the budget; attention chooses inside each.

    A crop's score is the mean of 1e3 a + alpha v, a being the attention of the tower's CLS token
    and v the variance of a token's cosines inside the crop, scaled so that its mean is that of
    1e3 a. So scaled it is a mean that is there already: the score is 1e3 (1 + alpha) times the
    crop's mean attention to one part in 10^5, and the variance decides nothing but ties.

    Each crop gets the whole part of its share, and those of the highest scores one more each until
    the budget is spent. The authors' code loses what a crop is given beyond the tokens it has, and
    hands on rows of zeros instead; here these go to the tokens of most attention that are left.

    Args:
        crops: how many, of equal length; the first ones hold one more where they must.
        alpha: weight of the variance.
    """

    name = "holov"
    summary = "shares the budget out over crops of the image, keeps what is attended to in each"
    paper = "arXiv:2510.02912"
    fidelity = (
        "as the authors' code at obananas/HoloV@1d2e65e, but tokens in image order, and the rows "
        "of zeros of a crop given too much are the most attended tokens left"
    )
    where = "encoder"
    default_layer = 0

    crops: int = 8
    alpha: float = 0.09

    def __post_init__(self) -> None:
        if self.crops < 1:
            raise MethodError(f"crops={self.crops} is below 1; raise it.")
        if self.alpha < 0:
            raise MethodError(f"alpha={self.alpha} is negative; use 0 or more.")
        super().__post_init__()

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"vision_attention"})

    def plan(self, visual: VisualTokens, keep: int) -> KeepPlan:
        assert visual.vision_attention is not None
        attention, n = visual.vision_attention, visual.num_tokens
        bounds = crop_bounds(n, min(self.crops, n))
        scores = self.crop_scores(visual.hidden, attention, bounds)
        given = shares(scores, keep)  # [G, P]
        crop_of = torch.repeat_interleave(
            torch.arange(len(bounds)), torch.tensor([end - start for start, end in bounds])
        ).to(attention.device)
        place = torch.cat([descending_rank(attention[:, a:b]) for a, b in bounds], dim=1)
        is_given = place < given[:, crop_of]
        # Those given come first, then the rest by attention.
        chosen = top_k(n * is_given - descending_rank(attention), keep)
        return keep_only(
            chosen, n, {"vision attention": attention, "crop score": scores[:, crop_of]}
        )

    def crop_scores(
        self, hidden: Tensor, attention: Tensor, bounds: list[tuple[int, int]]
    ) -> Tensor:
        """[G, N, D], [G, N] -> [G, P]"""
        found = []
        for start, end in bounds:
            scaled = _SCALE * attention[:, start:end].float()
            likeness = cosine(hidden[:, start:end], hidden[:, start:end])
            is_other = ~torch.eye(end - start, dtype=torch.bool, device=hidden.device)
            variance = (likeness * is_other).var(dim=-1, unbiased=False)
            mean = scaled.mean(dim=-1, keepdim=True)
            factor = mean / (variance.mean(dim=-1, keepdim=True) + _TINY)
            found.append((scaled + self.alpha * factor * variance).mean(dim=-1))
        return torch.stack(found, dim=1)


def crop_bounds(n: int, crops: int) -> list[tuple[int, int]]:
    """Start and end of `crops` runs of range(n), the first n % crops of them one longer.

    >>> crop_bounds(5, 2)
    [(0, 3), (3, 5)]
    """
    length, longer = divmod(n, crops)
    ends = [(i + 1) * length + min(i + 1, longer) for i in range(crops)]
    return list(zip([0, *ends[:-1]], ends, strict=True))


def shares(scores: Tensor, keep: int) -> Tensor:
    """`keep` whole tokens in proportion to scores [G, P]; what rounding leaves goes to the highest.

    Returns:
        [G, P] int64; each row sums to keep.
    """
    total = scores.double().sum(dim=-1, keepdim=True)
    equal = torch.full_like(scores, 1 / scores.shape[-1], dtype=torch.float64)
    share = torch.where(total > 0, scores.double() / total, equal)
    whole = (share * keep).floor().long()
    left = keep - whole.sum(dim=-1, keepdim=True)
    return whole + (descending_rank(scores) < left)
