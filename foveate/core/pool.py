"""Pools: the few items that a round of an exact lazy greedy chooses among.

Where what an item would add only ever falls as others are chosen, a stale figure is an upper bound.
So a round takes the items that promise most, works out their figures among each other, and chooses
inside as long as the best of them is beyond what any item outside can still have (Minoux 1978, with
pools for single items): the same choice as one at a time, in few large products.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Pool:
    """Who may be chosen in a round.

    Args:
        members: [G, P] int64, ascending, so that the first of equals is the lowest index.
        bound: [G], the most that any item outside has; -inf where all are inside.
    """

    members: Tensor
    bound: Tensor


def pool_of(score: Tensor, size: int, *, relative: float = 0.0, absolute: float = 0.0) -> Pool:
    """The `size` items of the highest score, with the lowest index of those that tie for the first.

    Args:
        score: [G, N]; -inf where an item is chosen already.
        size: P; all items where it is N or more.
        relative, absolute: differences to the highest that are none.
    """
    num_sets, n = score.shape
    if size >= n:
        every = torch.arange(n, device=score.device).expand(num_sets, n)
        return Pool(every, score.new_full((num_sets,), float("-inf")))
    highest = score.amax(dim=-1, keepdim=True)
    is_first = score >= highest * (1 - relative) - absolute
    first = is_first.to(torch.uint8).argmax(dim=-1, keepdim=True)
    # top-k alone may leave it out: among equals it takes any.
    top = score.scatter(1, first, float("inf")).topk(size + 1, dim=-1)
    return Pool(top.indices[:, :size].sort(dim=-1).values, top.values[:, size])
