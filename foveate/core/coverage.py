"""Greedy maximum coverage: the columns whose largest entries add up to most."""

from __future__ import annotations

import torch
from torch import Tensor

from foveate.core.coverage_in_pool import choose_columns
from foveate.core.pool import pool_of

FEW = 1024
POOL = 256  # half of it for few columns
TIE = 1e-6  # relative: what float32 sums in another order differ by
NOTHING = 1e-6  # of what a column covers by itself: what copies of chosen columns may seem to add
ROWS = 64  # looked at together: they stay in the cache


@torch.no_grad()
def greedy_coverage(weights: Tensor, k: int) -> Tensor:
    """Choose `k` columns so that the sum over rows of the largest chosen entry grows fastest.

    What a column would add only falls, so a round of `core.pool` takes the columns that would add
    most, chooses among them, and looks at the others once: the same choice as one at a time.

    Args:
        weights: [R, N] float32, not negative.
        k: 1 <= k <= N.

    Returns:
        [k] int64 in order of choice, ties (to within rounding) to the lower index;
        where no column adds anything any more the lowest follow.
    """
    return in_rounds(weights, k, pool=POOL if weights.shape[1] > FEW else POOL // 2)


def in_rounds(weights: Tensor, k: int, *, pool: int) -> Tensor:
    """`greedy_coverage` in rounds of `pool` columns."""
    chosen: list[Tensor] = []
    left = k
    covered = weights.new_zeros(weights.shape[0])
    is_free = torch.ones(weights.shape[1], dtype=torch.bool, device=weights.device)
    gain = gains(weights, covered)
    least = NOTHING * gain
    while True:
        gain = torch.where(gain > least, gain, 0).masked_fill_(~is_free, float("-inf"))
        among = pool_of(gain.unsqueeze(0), pool, relative=TIE)
        members = among.members[0]
        order = choose_columns(
            weights.index_select(1, members).T.contiguous(),
            covered,
            gain[members],
            least[members],
            among.bound[0],
            left,
            TIE,
        )
        # Where nothing is left to cover, one column is as good as another.
        new = members[order.to(members.device)] if len(order) else is_free.nonzero()[:left, 0]
        chosen.append(new)
        left -= len(new)
        if not left:
            return torch.cat(chosen)
        is_free[new] = False
        covered = torch.maximum(covered, weights.index_select(1, new).amax(dim=1))
        gain = gains(weights, covered)


def gains(weights: Tensor, covered: Tensor) -> Tensor:
    """What every column would add. [N]"""
    total = torch.zeros_like(weights[0])
    spare = torch.empty_like(weights[:ROWS])
    for i in range(0, len(weights), ROWS):
        rows = weights[i : i + ROWS]
        beyond = torch.sub(rows, covered[i : i + ROWS, None], out=spare[: len(rows)])
        total += beyond.clamp_min_(0).sum(dim=0)
    return total
