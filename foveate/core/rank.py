"""From scores to order: stable ranks, stable top-k, rank fusion."""

from __future__ import annotations

import torch
from torch import Tensor

from foveate.core.layout import columns_where


def descending_order(scores: Tensor) -> Tensor:
    """Indices that sort `scores` [..., N] from high to low; ties go to the lower index. [..., N]"""
    return torch.sort(scores, dim=-1, descending=True, stable=True).indices


def descending_rank(scores: Tensor) -> Tensor:
    """0-based rank of each entry of `scores` [..., N] when sorted from high to low. [..., N]"""
    order = descending_order(scores)
    positions = torch.arange(scores.shape[-1], device=scores.device).expand_as(order)
    return torch.empty_like(order).scatter_(-1, order, positions)


def top_k(scores: Tensor, k: int) -> Tensor:
    """Indices of the `k` highest of `scores` [..., N], best first, lower index on ties. [..., k]"""
    return descending_order(scores)[..., :k]


def others(chosen: Tensor, n: int) -> Tensor:
    """The indices of range(n) that are not in `chosen` [G, k] (unique), ascending. [G, n - k]"""
    is_other = torch.ones(chosen.shape[0], n, dtype=torch.bool, device=chosen.device)
    is_other.scatter_(1, chosen, False)
    return columns_where(is_other, n - chosen.shape[1])


def borda(first: Tensor, second: Tensor, weight: float) -> Tensor:
    """Rank fusion (Borda count): weight * (N - rank(first)) + (1 - weight) * (N - rank(second)).

    Args:
        first, second: scores [..., N], higher is better.
        weight: share of `first`, in [0, 1].

    Returns:
        float64 fused score [..., N] (exact for the half-integers a weight of 0.5 makes).
    """
    n = first.shape[-1]
    votes_first = (n - descending_rank(first)).to(torch.float64)
    votes_second = (n - descending_rank(second)).to(torch.float64)
    return weight * votes_first + (1.0 - weight) * votes_second
