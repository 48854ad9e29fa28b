"""The sequential part of greedy coverage: the items of one pool, on the host."""

from __future__ import annotations

import heapq

import numpy as np
import torch
from torch import Tensor

TOGETHER = 8  # members looked at again in one go


def choose_covers(
    covers: Tensor,
    covered: Tensor,
    gain: Tensor,
    weight: Tensor,
    least: Tensor,
    bound: Tensor,
    most: int,
    tie: float,
) -> Tensor:
    """From the members of a pool those that add most, until one outside might be the next.

    A stale gain is an upper bound: a member is looked at again only where its own is among the
    highest (Minoux 1978).

    Args:
        covers: [P, R] float32, what each member covers.
        covered: [R] float32, what those chosen before cover.
        gain: [P], what each member would add now times its weight; -inf where it is chosen.
        weight: [P].
        least: [P], what counts as nothing of each, unweighted.
        bound: [], the most that an item outside has, weighted.
        most: to choose.
        tie: relative difference that is none.

    Returns:
        Places in the pool in order of choice [T] int64 on the host: none where no item adds
        anything any more.
    """
    rows, cover, nothing = (x.cpu().numpy() for x in (covers, covered, least))
    weights = weight.tolist()
    cover, outside = cover.copy(), float(bound)
    beyond = np.empty((TOGETHER, len(cover)), dtype=cover.dtype)
    # The highest first, of equals the lowest place; how many were chosen when it was looked at.
    heap = [(-added, place, 0) for place, added in enumerate(gain.tolist()) if added > 0]
    heapq.heapify(heap)
    order: list[int] = []
    while len(order) < most:
        best: list[tuple[float, int, int]] = []  # all that tie for the highest, looked at now
        while True:
            stale: list[int] = []
            while heap and len(stale) < TOGETHER:
                negative, place, then = heap[0]
                is_fresh = then == len(order)
                if (best and negative > best[0][0] * (1 - tie)) or (is_fresh and stale):
                    break
                heapq.heappop(heap)
                if is_fresh:
                    best.append((negative, place, then))
                else:
                    stale.append(place)
            if not stale:
                break
            some = beyond[: len(stale)]
            np.subtract(rows[stale], cover, out=some)
            np.maximum(some, 0, out=some)
            for place, added in zip(stale, some.sum(axis=1).tolist(), strict=True):
                if added > nothing[place]:
                    heapq.heappush(heap, (-added * weights[place], place, len(order)))
        # Members are fresh, the bound is stale: beyond it no item outside can tie either.
        if not best or (order and -best[0][0] * (1 - 2 * tie) <= outside):
            break
        chosen = min(best, key=lambda item: item[1])
        for item in best:
            if item is not chosen:
                heapq.heappush(heap, item)
        order.append(chosen[1])
        np.maximum(cover, rows[chosen[1]], out=cover)
    return torch.tensor(order, dtype=torch.long)
