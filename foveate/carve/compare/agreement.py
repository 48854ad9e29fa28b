"""Down to which budget a carved model gives the answer of the full one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from foveate.carve.answerer import Answerer
from foveate.carve.engine.image_cache import ImageCache
from foveate.carve.method import Method
from foveate.models.vlm import VisionLanguageModel

__all__ = ["BUDGETS", "Agreement", "agreement_over_budgets"]

# Shares of the visual tokens, each about three quarters of the one before.
BUDGETS = (0.75, 0.56, 0.42, 0.32, 0.24, 0.18, 0.13, 0.1, 0.07, 0.05, 0.03)


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """One question at one budget.

    Args:
        keep_ratio: the budget.
        is_same: whether greedy decoding writes exactly the full model's answer, its end included.
        probability: that the carved model gives a token of that answer, geometric mean.
    """

    keep_ratio: float
    is_same: bool
    probability: float


def agreement_over_budgets(
    vlm: VisionLanguageModel,
    inputs: dict[str, Any],
    answer: Sequence[int],
    method_at: Callable[[float], Method],
    budgets: Sequence[float] = BUDGETS,
) -> Iterator[Agreement]:
    """Ask the same question at every budget; the image is encoded once.

    Args:
        inputs: what `vlm.inputs` returned, one row.
        answer: token ids of the full model's answer, with its end mark.
        method_at: the method at a share of the visual tokens to keep.
        budgets: the shares, each in (0, 1].
    """
    cache = ImageCache(vlm.model)
    for ratio in budgets:
        (scored,) = Answerer(vlm, method_at(ratio), images=cache).score(inputs, [answer]).rows
        yield Agreement(
            keep_ratio=ratio, is_same=scored.is_greedy, probability=math.exp(-scored.loss)
        )
    cache.clear()
