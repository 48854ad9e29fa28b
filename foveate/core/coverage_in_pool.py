"""The sequential part of greedy coverage: the columns of one pool, on the host."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def choose_columns(
    columns: Tensor,
    covered: Tensor,
    gain: Tensor,
    least: Tensor,
    bound: Tensor,
    most: int,
    tie: float,
) -> Tensor:
    """From the members of a pool the columns that add most, until one outside might be the next.

    Inside the pool a stale gain is an upper bound too: a column is looked at again only where its
    bound is among the highest.

    Args:
        columns: [P, R] float32, the members' columns as rows.
        covered: [R] float32, the largest entry of the columns chosen before.
        gain: [P], what each member would add now; -inf where it is chosen.
        least: [P], what counts as nothing of each.
        bound: [], the most that a column outside would add.
        most: to choose.
        tie: relative difference that is none.

    Returns:
        Places in the pool in order of choice [T] int64 on the host: none where no column adds
        anything any more.
    """
    rows, cover, left, nothing = (x.cpu().numpy() for x in (columns, covered, gain, least))
    cover, left, outside = cover.copy(), left.copy(), float(bound)
    beyond = np.empty_like(cover)
    is_stale = np.zeros(len(left), dtype=bool)
    order: list[int] = []
    while len(order) < min(most, len(left)):
        while True:
            top = left.max()
            is_best = left >= top * (1 - tie)
            again = (is_best & is_stale).nonzero()[0]
            if not len(again) or top <= 0:
                break
            for member in again:
                np.subtract(rows[member], cover, out=beyond)
                np.maximum(beyond, 0, out=beyond)
                added = beyond.sum()
                left[member] = added if added > nothing[member] else 0
            is_stale[again] = False
        # Members are fresh, the bound is stale: beyond it no column outside can tie either.
        if top <= 0 or (order and top * (1 - 2 * tie) <= outside):
            break
        best = int(is_best.argmax())
        order.append(best)
        np.maximum(cover, rows[best], out=cover)
        left[best] = -np.inf
        is_stale[:] = True
    return torch.tensor(order, dtype=torch.long)
