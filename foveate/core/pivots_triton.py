"""`core.pivots` as one launch on a GPU: a program for each image's pool.

The block stays in memory and only the factor's rows that were chosen are read again, as on the
host (left-looking), in float64 and with the same rules for ties. Rounds stay on the device: the
one thing the host reads back is how many each image chose.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from foveate.core.pivots import TIE, Pivots


@triton.jit  # type: ignore[untyped-decorator]
def _choose(  # type: ignore[no-untyped-def]
    block,
    left_of,
    least_of,
    bound_of,
    most_of,
    order,
    count_of,
    factor,
    size,
    tie: tl.constexpr,
    width: tl.constexpr,
    together: tl.constexpr,
):
    image = tl.program_id(0).to(tl.int64)
    block += image * size * size
    factor += image * size * size
    member = tl.arange(0, width)
    is_member = member < size
    left = tl.load(left_of + image * size + member, mask=is_member, other=float("-inf"))
    least = tl.load(least_of + image)
    bound = tl.load(bound_of + image)
    most = tl.load(most_of + image)
    count = 0
    go = most > 0
    while go:
        top = tl.max(left, 0)
        go = top > least
        # The bound is stale: beyond it no item outside can tie either.
        go = go & ((count == 0) | (bound < top * (1 - 2 * tie)))
        if go:
            best = tl.min(tl.where(left >= top * (1 - tie), member, width), 0)
            gain = tl.sum(tl.where(member == best, left, 0.0), 0)
            row = tl.load(block + best * size + member, mask=is_member, other=0.0)
            for first in range(0, count, together):
                before = first + tl.arange(0, together)
                was = before < count
                at_best = tl.load(factor + before * size + best, mask=was, other=0.0)
                rows = tl.load(
                    factor + before[:, None] * size + member[None, :],
                    mask=was[:, None] & is_member[None, :],
                    other=0.0,
                )
                row -= tl.sum(at_best[:, None] * rows, 0)
            row = row / tl.sqrt(gain)
            tl.store(factor + count * size + member, row, mask=is_member)
            tl.store(order + image * size + count, best)
            left = tl.where(member == best, float("-inf"), left - row * row)
            count += 1
            go = count < most
            tl.debug_barrier()  # other threads read this row next
    tl.store(count_of + image, count)


def choose_pivots_on_gpu(
    block: Tensor, left: Tensor, least: Tensor, bound: Tensor, most: Tensor
) -> Pivots:
    """`core.pivots.choose_pivots`, with which it agrees; `most` may be on the host."""
    num_sets, size, _ = block.shape
    order = torch.zeros(num_sets, size, dtype=torch.long, device=block.device)
    count = torch.zeros(num_sets, dtype=torch.long, device=block.device)
    factor = torch.empty_like(block, memory_format=torch.contiguous_format)
    width = max(16, triton.next_power_of_2(size))
    _choose[(num_sets,)](
        block.contiguous(),
        left.contiguous(),
        least.contiguous(),
        bound.contiguous(),
        most.to(block.device),
        order,
        count,
        factor,
        size,
        tie=TIE,
        width=width,
        together=max(1, 4096 // width),
        num_warps=8,
    )
    on_host = count.cpu()
    longest = int(on_host.max())
    turn = torch.arange(longest, device=block.device)
    is_there = turn < count.unsqueeze(1)  # [G, T]
    places = torch.where(is_there, order[:, :longest], order[:, :1])
    rows = factor[:, :longest].gather(2, places.unsqueeze(1).expand(-1, longest, -1))
    own = rows.transpose(1, 2).tril()
    identity = torch.eye(longest, dtype=own.dtype, device=own.device)
    lower = torch.where(is_there.unsqueeze(1) & is_there.unsqueeze(2), own, identity)
    gains = lower.diagonal(dim1=1, dim2=2).square() * is_there
    return Pivots(places, on_host, lower, gains)
