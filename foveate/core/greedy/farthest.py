"""Farthest-point selection: each new point is the farthest from those chosen before."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import Tensor

from foveate.core.greedy.cosine_distance import SAME, CosineDistance
from foveate.core.greedy.farthest_in_pool import choose_farthest
from foveate.core.greedy.pool import check_numbers, pool_of
from foveate.core.layout import sent

# Up to here all pairs are kept: they are 16 MB an image, and the first point needs them anyway.
FEW = 2048
POOL = 256


@torch.no_grad()
def farthest_points(distance: Tensor | CosineDistance, k: int) -> Tensor:
    """Greedy max-min selection of `k` points: each new one is farthest from those already chosen.

    The first point is the one whose nearest neighbour is farthest away. The distance to the nearest
    chosen point only falls, so where not all pairs are at hand a round of `pool` takes the
    farthest points, chooses among them, and reads the rows of those chosen alone.

    Args:
        distance: [G, N, N], symmetric, any real scale; or the cosine distance of tokens, where
            what float32 cannot tell apart ties.
        k: 1 <= k <= N.

    Returns:
        Indices in order of selection, ties to the lower index, [G, k] int64.
    """
    if isinstance(distance, Tensor):
        return _all_at_once(distance, k, tie=0.0)
    num_sets, n = distance.shape
    if n <= FEW:
        return _all_at_once(distance.matrix(), k, tie=SAME)
    if distance.device.type != "cpu" or num_sets == 1:
        return in_rounds(distance, k, pool=POOL)
    # One by one, so that no image's products have the shape of another's choice.
    return torch.cat([in_rounds(distance.image(i), k, pool=POOL) for i in range(num_sets)])


def _all_at_once(distance: Tensor, k: int, *, tie: float) -> Tensor:
    num_sets, n, _ = distance.shape
    own = torch.eye(n, dtype=torch.bool, device=distance.device)
    first = _first(distance.masked_fill(own, torch.inf).amin(dim=-1), tie)
    nearest = distance.gather(1, first.unsqueeze(-1).expand(-1, -1, n))[:, 0]  # [G, N]
    nearest.scatter_(1, first, float("-inf"))
    bound = nearest.new_full((num_sets,), float("-inf"))
    most = torch.full((num_sets,), k - 1)
    choose = _chooser(distance.device)
    return torch.cat([first, choose(distance, nearest, bound, most, tie)[0]], dim=1)


def in_rounds(distance: CosineDistance, k: int, *, pool: int) -> Tensor:
    """`farthest_points` in rounds of `pool` points, all images in step."""
    num_sets, n = distance.shape
    first = _first(distance.nearest(), SAME)
    nearest = distance.rows(first)[:, 0].scatter_(1, first, float("-inf"))
    # The last column takes what an image that chose fewer than another does not have.
    chosen = torch.zeros(num_sets, k + 1, dtype=torch.long, device=distance.device)
    chosen[:, :1] = first
    done = torch.ones(num_sets, dtype=torch.long)  # on the host
    choose = _chooser(distance.device)
    while bool((done < k).any()):
        among = pool_of(nearest, pool, absolute=SAME)
        places, count = choose(
            distance.block(among.members),
            nearest.gather(1, among.members),
            among.bound,
            (k - done).clamp_max(pool),
            SAME,
        )
        new = among.members.gather(1, places)  # [G, T]
        turn = torch.arange(new.shape[1])
        at = torch.where(turn < count[:, None], done[:, None] + turn, k)
        chosen.scatter_(1, sent(at, chosen.device), new)
        is_spent = (count == 0) & (done < k)
        for i in is_spent.nonzero()[:, 0].tolist():
            # Only copies of chosen points are left, one as good as another.
            is_left = torch.ones(n, dtype=torch.bool, device=chosen.device)
            is_left[chosen[i, : done[i]]] = False
            chosen[i, done[i] : k] = is_left.nonzero()[: k - int(done[i]), 0]
        done = torch.where(is_spent, k, done + count)
        if new.shape[1] and bool((done < k).any()):
            nearest = torch.minimum(nearest, distance.rows(new).amin(dim=1))
            nearest.scatter_(1, new, float("-inf"))
    return chosen[:, :k]


def _first(nearest: Tensor, tie: float) -> Tensor:
    """The point that is farthest from its neighbours. [G, 1]"""
    check_numbers(nearest)
    is_far = nearest >= nearest.amax(dim=-1, keepdim=True) - tie
    return is_far.to(torch.uint8).argmax(dim=-1, keepdim=True)


def _chooser(device: torch.device) -> Callable[..., tuple[Tensor, Tensor]]:
    """Who takes the steps inside a pool: the host, or the GPU itself where Triton is there."""
    if device.type == "cuda" and find_spec("triton") is not None:
        from foveate.core.greedy.farthest_triton import choose_farthest_on_gpu

        return choose_farthest_on_gpu
    return choose_farthest
