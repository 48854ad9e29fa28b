"""Rows of a tensor by index, per image."""

from __future__ import annotations

from torch import Tensor


def gather_rows(x: Tensor, index: Tensor) -> Tensor:
    """x [G, N, D] at index [G, K] int64. [G, K, D]"""
    return x.gather(1, index.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
