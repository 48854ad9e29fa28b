"""`core.farthest_in_pool` as one launch on a GPU: a program for each image's pool."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit  # type: ignore[untyped-decorator]
def _choose(  # type: ignore[no-untyped-def]
    distance,
    nearest_of,
    bound_of,
    most_of,
    order,
    count_of,
    size,
    longest,
    tie: tl.constexpr,
    width: tl.constexpr,
):
    image = tl.program_id(0).to(tl.int64)
    distance += image * size * size
    member = tl.arange(0, width)
    is_member = member < size
    nearest = tl.load(nearest_of + image * size + member, mask=is_member, other=float("-inf"))
    bound = tl.load(bound_of + image)
    most = tl.load(most_of + image)
    count = 0
    go = most > 0
    while go:
        top = tl.max(nearest, 0)
        # The bound is stale: beyond it no point outside can tie either.
        go = (top > bound + 2 * tie) | ((count == 0) & (top > 0))
        if go:
            best = tl.min(tl.where(nearest >= top - tie, member, width), 0)
            tl.store(order + image * longest + count, best)
            row = tl.load(distance + best * size + member, mask=is_member, other=0.0)
            nearest = tl.minimum(nearest, row)
            nearest = tl.where(member == best, float("-inf"), nearest)
            count += 1
            go = count < most
    tl.store(count_of + image, count)


def choose_farthest_on_gpu(
    distance: Tensor, nearest: Tensor, bound: Tensor, most: Tensor, tie: float
) -> tuple[Tensor, Tensor]:
    """`core.farthest_in_pool.choose_farthest`, with which it agrees; `most` is on the host."""
    num_sets, size, _ = distance.shape
    longest = int(most.max())
    order = torch.zeros(num_sets, longest, dtype=torch.long, device=distance.device)
    count = torch.zeros(num_sets, dtype=torch.long, device=distance.device)
    width = max(16, triton.next_power_of_2(size))
    _choose[(num_sets,)](
        distance.contiguous(),
        nearest.contiguous(),
        bound.contiguous(),
        most.to(distance.device),
        order,
        count,
        size,
        longest,
        tie=tie,
        width=width,
        num_warps=max(1, min(8, width // 128)),
    )
    on_host = count.cpu()
    order = order[:, : int(on_host.max())]
    is_there = torch.arange(order.shape[1], device=order.device) < count.unsqueeze(1)
    return torch.where(is_there, order, order[:, :1]), on_host
