"""Greedy maximisation of a log-determinant: the most spread-out subset under a kernel."""

from __future__ import annotations

import torch
from torch import Tensor

TIE = 1e-6  # relative: what float32 states differ by from one batch to another


def greedy_log_det(kernel: Tensor, k: int, *, floor: float = 1e-9) -> tuple[Tensor, Tensor]:
    """Choose `k` items so that log det of their kernel block grows fastest at every step.

    The incremental Cholesky factor of Chen et al. (arXiv:1709.05135, algorithm 1): O(k) updates of
    O(N i) each. What is left of the diagonal is an item's squared distance from the span of the
    chosen ones. Where nothing is left of any (the kernel's rank is spent) the largest diagonal
    decides: rounding errors must not.

    Args:
        kernel: [G, N, N] symmetric, positive semi-definite.
        k: 1 <= k <= N.
        floor: share of the largest diagonal below which a gain counts as nothing.

    Returns:
        (indices in order of choice [G, k] int64, ties (to within rounding of float32) to the lower
        index, gains [G, k]: the squared distance each added).
    """
    num_sets, n, _ = kernel.shape
    rows = torch.arange(num_sets, device=kernel.device)
    diagonal = kernel.diagonal(dim1=-2, dim2=-1)  # [G, N]
    least = floor * diagonal.amax(dim=-1, keepdim=True)
    # Below every real gain, in the order of the diagonal.
    fallback = floor * diagonal
    left = diagonal.clone()
    is_free = torch.ones_like(diagonal, dtype=torch.bool)
    factor = kernel.new_zeros(num_sets, k, n)  # rows of the Cholesky factor
    chosen = torch.empty(num_sets, k, dtype=torch.long, device=kernel.device)
    gains = kernel.new_empty(num_sets, k)
    for i in range(k):
        score = torch.where(left > least, left, fallback).masked_fill(~is_free, float("-inf"))
        # The first of those that are equal but for rounding: of a centred kernel the last two are.
        highest = score.amax(dim=-1, keepdim=True)
        best = (score >= highest * (1 - TIE)).to(torch.uint8).argmax(dim=-1)
        chosen[:, i] = best
        is_free[rows, best] = False
        gain = left[rows, best].clamp_min(0)
        gains[:, i] = gain
        if i == k - 1:
            break
        row = kernel[rows, best]
        if i:
            at_best = factor[rows, :i, best]  # [G, i]
            row = row - (at_best.unsqueeze(1) @ factor[:, :i]).squeeze(1)
        is_new = gain.unsqueeze(-1) > least
        row = torch.where(
            is_new, row / gain.clamp_min(torch.finfo(kernel.dtype).tiny).sqrt().unsqueeze(-1), 0.0
        )
        factor[:, i] = row
        left = left - row.square()
    return chosen, gains
