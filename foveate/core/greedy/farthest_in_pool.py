"""The sequential part of farthest-point selection: one small matrix of distances, on the host."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from foveate.core.greedy.pivots import on_host
from foveate.core.layout import sent


def choose_farthest(
    distance: Tensor, nearest: Tensor, bound: Tensor, most: Tensor, tie: float
) -> tuple[Tensor, Tensor]:
    """From the members of G pools the farthest ones, until a point outside might be the next.

    Args:
        distance: [G, P, P] among the members.
        nearest: [G, P], of each member to the points chosen before; -inf where it is one of them.
        bound: [G], the same of the farthest point outside.
        most: [G] int64, the most to choose.
        tie: difference that is none.

    Returns:
        (places in the pool [G, T] int64 in order of choice, the first again where an image chose
        fewer; how many each chose [G] int64 on the host: none where all are copies of chosen ones
        and so are those outside).
    """
    host = [t.numpy() for t in (*on_host(distance, nearest, bound), most.cpu())]
    found: list[list[int]] = []
    for rows, of_image, outside, limit in zip(*host, strict=True):
        near = of_image.copy()
        order: list[int] = []
        while len(order) < limit:
            top = near.max()
            # Members are fresh, the bound is stale: beyond it no point outside can tie either.
            if top <= outside + 2 * tie and (order or top <= 0):
                break
            best = int((near >= top - tie).argmax()) if tie else int(near.argmax())
            order.append(best)
            np.minimum(near, rows[best], out=near)
            near[best] = -np.inf
        found.append(order)
    longest = max(map(len, found))
    padded = [order + [order[0] if order else 0] * (longest - len(order)) for order in found]
    places = torch.tensor(padded, dtype=torch.long).view(len(found), longest)
    return sent(places, distance.device), torch.tensor([len(order) for order in found])
