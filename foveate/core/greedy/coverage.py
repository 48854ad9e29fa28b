"""Greedy maximum coverage: the items that between them cover most."""

from __future__ import annotations

import torch
from torch import Tensor

from foveate.core.greedy.coverage_in_pool import choose_covers
from foveate.core.greedy.pool import check_numbers, pool_of

POOL = 256
TIE = 1e-6  # relative: what float32 sums in another order differ by
NOTHING = 1e-6  # of what an item covers by itself: what copies of chosen ones may seem to add
ITEMS = 64  # looked at together: they stay in the cache


@torch.no_grad()
def greedy_coverage(covers: Tensor, k: int, weight: Tensor | None = None) -> Tensor:
    """Choose `k` items so that sum over r of max over the chosen of covers[., r] grows fastest.

    With weights the next item is that of the largest weight times growth, which only falls too.

    What an item would add only falls, so what it would have added before is an upper bound. On a
    CPU an item is looked at again only where that is the highest; an accelerator looks at all of
    them in less time than it takes to ask, once for each round of `pool`. Either way the
    choice is the same as one at a time.

    Args:
        covers: [N, R] float32, not negative: what each item covers.
        k: 1 <= k <= N.
        weight: [N] float32, not negative; None for ones.

    Returns:
        [k] int64 in order of choice, ties (to within rounding) to the lower index;
        where no item adds anything any more the lowest follow.
    """
    pool = len(covers) if covers.device.type == "cpu" else POOL
    return in_rounds(covers, k, weight, pool=pool)


def in_rounds(covers: Tensor, k: int, weight: Tensor | None = None, *, pool: int) -> Tensor:
    """`greedy_coverage` in rounds of `pool` items."""
    chosen: list[Tensor] = []
    left = k
    covered = torch.zeros_like(covers[0])
    is_free = torch.ones(len(covers), dtype=torch.bool, device=covers.device)
    gain = gains(covers, covered)
    check_numbers(gain - gain)  # of infinity, too
    least = NOTHING * gain
    weight = torch.ones_like(gain) if weight is None else weight
    while True:
        gain = torch.where(gain > least, gain * weight, 0).masked_fill_(~is_free, float("-inf"))
        among = pool_of(gain.unsqueeze(0), pool, relative=TIE)
        members = among.members[0]
        of_members = covers if pool >= len(covers) else covers.index_select(0, members)
        order = choose_covers(
            of_members,
            covered,
            gain[members],
            weight[members],
            least[members],
            among.bound[0],
            left,
            TIE,
        )
        # Where nothing is left to cover, one item is as good as another.
        new = members[order.to(members.device)] if len(order) else is_free.nonzero()[:left, 0]
        chosen.append(new)
        left -= len(new)
        if not left:
            return torch.cat(chosen)
        is_free[new] = False
        covered = torch.maximum(covered, covers.index_select(0, new).amax(dim=0))
        gain = gains(covers, covered)


def gains(covers: Tensor, covered: Tensor) -> Tensor:
    """What every item would add. [N]"""
    spare = torch.empty_like(covers[:ITEMS])
    found = []
    for some in torch.split(covers, ITEMS):
        beyond = torch.sub(some, covered, out=spare[: len(some)])
        found.append(beyond.clamp_min_(0).sum(dim=1))
    return torch.cat(found)
