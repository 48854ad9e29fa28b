"""The sequential part of a greedy log-determinant: pivots of one small matrix, on the host.

A step of it is a vector operation on a few hundred numbers, which an accelerator does in less time
than it takes to be told: a transfer a round, there and back, costs less than ten launches a step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foveate.core.layout import sent

TIE = 1e-6  # relative: what float32 states differ by from one batch to another


@dataclass(frozen=True)
class Pivots:
    """What a round chose of its pools, padded to the T of the image that chose most.

    Args:
        places: [G, T] int64 in order of choice, in the pool; behind the last the first again.
        count: [G] int64, how many each image chose; 0 where nothing is left of any member.
        lower: [G, T, T], their Cholesky factor; the identity behind the last.
        gains: [G, T], the squares of its diagonal; 0 behind the last.
    """

    places: Tensor
    count: Tensor
    lower: Tensor
    gains: Tensor


def choose_pivots(
    block: Tensor, left: Tensor, least: Tensor, bound: Tensor, most: Tensor
) -> Pivots:
    """Pivoted Cholesky of G small matrices, each until an item outside might be the next.

    Args:
        block: [G, P, P] float64, what is left of the kernel among the members.
        left: [G, P] float64, its diagonal; -inf where a member is not to be chosen.
        least: [G] float64, what counts as nothing.
        bound: [G] float64, the most that is left of any item outside.
        most: [G] int64, the most to choose.
    """
    host = [t.numpy() for t in (*on_host(block, left, least, bound), most.cpu())]
    found = [_of_one(*of_image) for of_image in zip(*host, strict=True)]
    num_sets, longest = len(found), max(len(order) for order, _ in found)
    # One tensor for all that goes back: [G, T, T + 2], the factor beside gains and places.
    back = torch.zeros(num_sets, longest, longest + 2, dtype=torch.float64)
    lower, gains, places = back[:, :, :longest], back[:, :, longest], back[:, :, longest + 1]
    lower.diagonal(dim1=1, dim2=2).fill_(1.0)
    for i, (order, factor) in enumerate(found):
        t = len(order)
        if order:
            places[i] = order[0]
            places[i, :t] = torch.tensor(order, dtype=torch.float64)
        own = torch.from_numpy(factor[:, order].T)
        lower[i, :t, :t] = own.tril()
        gains[i, :t] = own.diagonal().square()
    count = torch.tensor([len(order) for order, _ in found])
    back = sent(back, block.device)
    lower, gains, places = back[:, :, :longest], back[:, :, longest], back[:, :, longest + 1]
    return Pivots(places.long(), count, lower, gains)


def on_host(*tensors: Tensor) -> list[Tensor]:
    """Tensors [G, ...] of one type brought over in one copy: the host waits for a device once."""
    if tensors[0].device.type == "cpu":
        return list(tensors)
    flat = [t.flatten(1) if t.ndim > 1 else t.unsqueeze(1) for t in tensors]
    sizes = [part.shape[1] for part in flat]
    parts = torch.split(torch.cat(flat, dim=1).cpu(), sizes, dim=1)
    return [part.reshape(t.shape) for part, t in zip(parts, tensors, strict=True)]


def _of_one(
    block: NDArray[np.float64],
    left: NDArray[np.float64],
    least: np.float64,
    bound: np.float64,
    most: np.int64,
) -> tuple[list[int], NDArray[np.float64]]:
    """(order of choice, rows of the factor [T, P]) of one image."""
    size = len(left)
    left = left.copy()
    factor = np.empty((min(int(most), size), size))
    # The products by torch, on the same memory: it keeps to the number of threads it was given.
    of_block = torch.from_numpy(block).unbind(0)
    of_factor = torch.from_numpy(factor)
    rows, columns, turned = of_factor.unbind(0), of_factor.unbind(1), of_factor.T
    order: list[int] = []
    while len(order) < len(factor):
        i = len(order)
        top = left.max()
        # Members are fresh, the bound is stale: beyond it no item outside can tie either.
        if not top > least or (i and bound >= top * (1 - 2 * TIE)):
            break
        best = int((left >= top * (1 - TIE)).argmax())
        torch.addmv(of_block[best], turned[:, :i], columns[best][:i], alpha=-1, out=rows[i])
        row = factor[i]
        row /= math.sqrt(left[best])
        left -= row * row
        left[best] = -np.inf
        order.append(best)
    return order, factor[: len(order)]
