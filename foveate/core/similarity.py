"""Likeness between tokens: cosine, best match, farthest-point selection."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine similarity of every row of `a` [..., I, D] with every row of `b` [..., J, D].

    Computed in float32. Returns [..., I, J]; rows of zeros have similarity 0.
    """
    return normalize(a.float(), dim=-1) @ normalize(b.float(), dim=-1).transpose(-1, -2)


def best_match(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """For each row of `a` [..., I, D] its most similar row of `b` [..., J, D].

    Returns:
        (similarity [..., I] float32, index into b [..., I] int64).
    """
    found = cosine(a, b).max(dim=-1)
    return found.values, found.indices


def farthest_points(distance: Tensor, k: int) -> Tensor:
    """Greedy max-min selection of `k` points: each new one is farthest from those already chosen.

    The first point is the one whose nearest neighbour is farthest away. O(k N) per set.

    Args:
        distance: [G, N, N], symmetric, any real scale.
        k: 1 <= k <= N.

    Returns:
        Indices in order of selection, [G, k] int64.
    """
    num_sets, n, _ = distance.shape
    rows = torch.arange(num_sets, device=distance.device)
    off_diagonal = distance + torch.diag(
        torch.full((n,), float("inf"), device=distance.device, dtype=distance.dtype)
    )
    chosen = torch.empty(num_sets, k, dtype=torch.long, device=distance.device)
    chosen[:, 0] = off_diagonal.min(dim=-1).values.argmax(dim=-1) if n > 1 else 0
    nearest = distance[rows, chosen[:, 0]].clone()  # [G, N]
    nearest[rows, chosen[:, 0]] = float("-inf")
    for i in range(1, k):
        chosen[:, i] = nearest.argmax(dim=-1)
        nearest = torch.minimum(nearest, distance[rows, chosen[:, i]])
        nearest.scatter_(1, chosen[:, : i + 1], float("-inf"))
    return chosen
