"""Likeness between tokens: cosine and best match."""

from __future__ import annotations

import torch
from torch import Tensor

from foveate.core.greedy.pairs import ROWS, self_products


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine similarity of every row of `a` [..., I, D] with every row of `b` [..., J, D].

    Computed in float32, in float64 where either is. Returns [..., I, J]; rows of zeros have
    similarity 0.
    """
    dtype = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
    a, b = a.to(dtype), b.to(dtype)
    # The products are scaled, not the rows: there are fewer of them than of states.
    products = a @ b.transpose(-1, -2)
    return products.mul_(inverse_length(a).unsqueeze(-1)).mul_(inverse_length(b).unsqueeze(-2))


def self_cosine(x: Tensor, out: Tensor | None = None) -> Tensor:
    """Cosine similarity of all rows of `x` [N, D] with each other, each pair once.

    Returns [N, N] float32, `out` if given.
    """
    states = x.float()
    inverse = inverse_length(states)
    found = self_products(states, out=out)
    # A few rows at a time: they stay in the cache.
    for rows, own in zip(torch.split(found, ROWS), torch.split(inverse, ROWS), strict=True):
        rows *= own.unsqueeze(-1)
        rows *= inverse
    return found


def inverse_length(x: Tensor) -> Tensor:
    """1 / |x_i| of every row of `x` [..., N, D], finite for rows of zeros. [..., N]

    In float32, in float64 where x is.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    return torch.linalg.vector_norm(x, dim=-1, dtype=dtype).clamp_min_(1e-12).reciprocal_()


def best_match(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """For each row of `a` [..., I, D] its most similar row of `b` [..., J, D].

    Returns:
        (similarity [..., I] float32, index into b [..., I] int64).
    """
    a, b = a.float(), b.float()
    inverse = inverse_length(b).unsqueeze(-2)
    # A few rows at a time: all pairs are gigabytes where there are 16,384 tokens.
    parts = [
        (part @ b.transpose(-1, -2)).mul_(inverse).max(dim=-1)
        for part in torch.split(a, ROWS, dim=-2)
    ]
    values = torch.cat([part.values for part in parts], dim=-1)
    return values.mul_(inverse_length(a)), torch.cat([part.indices for part in parts], dim=-1)
