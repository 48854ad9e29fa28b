"""Greedy maximisation of a log-determinant: the most spread-out subset under a kernel."""

from __future__ import annotations

import torch
from torch import Tensor


def greedy_log_det(kernel: Tensor, k: int, *, floor: float = 1e-10) -> tuple[Tensor, Tensor]:
    """Choose `k` items so that log det of their kernel block grows fastest at every step.

    The incremental Cholesky factor of Chen et al. (arXiv:1709.05135, algorithm 1): O(k) updates of
    O(N i) each. What is left of the diagonal is an item's squared distance from the span of the
    chosen ones; where nothing is left (the kernel's rank is spent), the highest remaining diagonal
    still decides, ties to the lower index.

    Args:
        kernel: [G, N, N] symmetric, positive semi-definite.
        k: 1 <= k <= N.
        floor: smallest pivot that is divided by.

    Returns:
        (indices in order of choice [G, k] int64, gains [G, k]: the squared distance each added).
    """
    num_sets, n, _ = kernel.shape
    rows = torch.arange(num_sets, device=kernel.device)
    left = kernel.diagonal(dim1=-2, dim2=-1).clone()  # [G, N]
    factor = kernel.new_zeros(num_sets, k, n)  # rows of the Cholesky factor
    chosen = torch.empty(num_sets, k, dtype=torch.long, device=kernel.device)
    gains = kernel.new_empty(num_sets, k)
    for i in range(k):
        best = left.argmax(dim=-1)
        chosen[:, i] = best
        gain = left[rows, best]
        gains[:, i] = gain
        if i == k - 1:
            break
        row = kernel[rows, best]
        if i:
            at_best = factor[rows, :i, best]  # [G, i]
            row = row - (at_best.unsqueeze(1) @ factor[:, :i]).squeeze(1)
        row = row / gain.clamp_min(floor).sqrt().unsqueeze(-1)
        factor[:, i] = row
        left = (left - row.square()).clamp_min(0)
        left.scatter_(1, chosen[:, : i + 1], float("-inf"))
    return chosen, gains
