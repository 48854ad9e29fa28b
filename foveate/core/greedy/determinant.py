"""Greedy maximisation of a log-determinant: the most spread-out subset under a kernel."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor

from foveate.core.greedy.pairs import Dense, Pairs
from foveate.core.greedy.pivots import TIE, Pivots, choose_pivots
from foveate.core.greedy.pool import check_numbers, pool_of
from foveate.core.layout import sent

# Up to here all pairs are worked out, as one product is faster than those of many rounds.
FEW = 1024
POOL = 256
# From here on rows are long, and more of them at a time make up for larger pools.
MANY = 12288


@torch.no_grad()
def greedy_log_det(kernel: Tensor | Pairs, k: int, *, floor: float = 1e-9) -> tuple[Tensor, Tensor]:
    """Choose `k` items so that log det of their kernel block grows fastest at every step.

    What is left of the diagonal is an item's squared distance from the span of the chosen ones, and
    the next is the item with most left (Chen et al., arXiv:1709.05135, algorithm 1). It only falls,
    so a round of `pool` takes the items with most left, chooses among them by a Cholesky
    factorisation with pivots, and updates all others by one triangular solve: the same choice as
    one at a time, in as many products as there are rounds. Where nothing is left of any (the
    kernel's rank is spent) the largest diagonal decides: rounding errors must not.

    Args:
        kernel: [G, N, N] symmetric, positive semi-definite, or its Pairs; float64, or what is left
            of an item near the span of the chosen ones is rounding.
        k: 1 <= k <= N.
        floor: share of the largest diagonal below which a gain counts as nothing.

    Returns:
        (indices in order of choice [G, k] int64, ties (to within rounding of float32) to the lower
        index, gains [G, k] float64: the squared distance each added; 0 where nothing was left).
    """
    pairs = Dense(kernel.double()) if isinstance(kernel, Tensor) else kernel
    num_sets, n = pairs.shape
    pool = POOL // 2 if n <= FEW else POOL if n < MANY else 2 * POOL
    if n <= FEW:
        pairs = Dense(pairs.matrix())
    if pairs.device.type != "cpu" or num_sets == 1:
        return in_rounds(pairs, k, floor=floor, pool=pool)
    # One by one, so that no image's products have the shape of another's choice.
    found = [in_rounds(pairs.image(i), k, floor=floor, pool=pool) for i in range(num_sets)]
    return torch.cat([chosen for chosen, _ in found]), torch.cat([gains for _, gains in found])


def log_det_bytes(num_images: int, num_tokens: int, width: int, k: int) -> int:
    """What choosing from a Gram matrix holds at its peak: states, factor, few pairs; float64.

    Of all images at once, as on a GPU; a CPU has one factor at a time.
    """
    pairs = num_tokens if num_tokens <= FEW else 0
    return 8 * num_images * num_tokens * (width + k + pairs)


def in_rounds(pairs: Pairs, k: int, *, floor: float, pool: int) -> tuple[Tensor, Tensor]:
    """`greedy_log_det` in rounds of `pool` items, all images in step."""
    num_sets, n = pairs.shape
    diagonal = pairs.diagonal()  # [G, N]
    check_numbers(diagonal - diagonal)  # of infinity, too
    device = diagonal.device
    least = floor * diagonal.amax(dim=-1)  # [G]
    left = diagonal.clone()  # -inf where chosen
    # The last column takes what an image that chose fewer than another does not have.
    chosen = torch.zeros(num_sets, k + 1, dtype=torch.long, device=device)
    gains = left.new_zeros(num_sets, k + 1)
    factor = left.new_empty(num_sets, k, n)  # rows of the Cholesky factor
    choose = _chooser(device)
    used = 0  # of them; where images choose different numbers, some of their rows are zeros
    done = torch.zeros(num_sets, dtype=torch.long)  # on the host
    while True:
        among = pool_of(left, pool, relative=TIE)
        block = pairs.block(among.members)
        if used:
            at_members = factor[:, :used].gather(2, among.members[:, None].expand(-1, used, -1))
            block.baddbmm_(at_members.transpose(1, 2), at_members, alpha=-1)
        found = choose(
            block, left.gather(1, among.members), least, among.bound, (k - done).clamp_max(pool)
        )
        new = among.members.gather(1, found.places)  # [G, T]
        longest = new.shape[1]
        is_there = torch.arange(longest) < found.count[:, None]
        at = torch.where(is_there, done[:, None] + torch.arange(longest), k)
        at = sent(at, device)
        chosen.scatter_(1, at, new)
        gains.scatter_(1, at, found.gains)
        left.scatter_(1, new, float("-inf"))
        is_spent = (found.count == 0) & (done < k)
        for i in is_spent.nonzero()[:, 0].tolist():
            rest = _by_size(diagonal[i], chosen[i, : done[i]], k - int(done[i]))
            chosen[i, done[i] : k] = rest
        done = torch.where(is_spent, k, done + found.count)
        if bool((done >= k).all()):
            return chosen[:, :k], gains[:, :k]
        # What the chosen leave of the others: rows of the factor, all columns at once.
        if used + longest > factor.shape[1]:
            factor = torch.cat([factor, factor.new_empty(num_sets, longest, n)], dim=1)
        rows = pairs.rows(new)
        if used:
            at_new = factor[:, :used].gather(2, new[:, None].expand(-1, used, -1))
            rows.baddbmm_(at_new.transpose(1, 2), factor[:, :used], alpha=-1)
        fresh = torch.linalg.solve_triangular(found.lower, rows, upper=False)
        if num_sets > 1:
            fresh.mul_(sent(is_there, device).unsqueeze(-1))
        factor[:, used : used + longest] = fresh
        used += longest
        left -= fresh.square_().sum(dim=1)


def _chooser(device: torch.device) -> Callable[..., Pivots]:
    """Who takes the steps inside a pool: the host, or the GPU itself where Triton is there."""
    if device.type == "cuda" and find_spec("triton") is not None:
        from foveate.core.greedy.pivots_triton import choose_pivots_on_gpu

        return choose_pivots_on_gpu
    return choose_pivots


def _by_size(diagonal: Tensor, chosen: Tensor, count: int) -> Tensor:
    """The `count` of the largest diagonal [N] besides the `chosen`, ties as ever to the lower."""
    size = diagonal.cpu().numpy().copy()
    size[chosen.cpu().numpy()] = -np.inf
    order = np.empty(count, dtype=np.int64)
    for i in range(count):
        order[i] = best = int((size >= size.max() * (1 - TIE)).argmax())
        size[best] = -np.inf
    return torch.from_numpy(order)
