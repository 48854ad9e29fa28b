"""Rows of a tensor by index, per image."""

from __future__ import annotations

from torch import Tensor


def gather_rows(x: Tensor, index: Tensor) -> Tensor:
    """x [G, N, D] at index [G, K] int64. [G, K, D]"""
    if x.shape[0] == 1:  # not the slower general gather
        return x[0].index_select(0, index[0]).unsqueeze(0)
    return x.gather(1, index.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
