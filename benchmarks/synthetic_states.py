"""Hidden states made up for measurements: of the spectra that language models have."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["decaying", "noisy"]


def decaying(num_tokens: int, width: int, seed: int) -> Tensor:
    """Singular values that fall as 1 / rank, with a log-normal row scale. [N, D] float32"""
    generator = torch.Generator().manual_seed(seed)
    side = min(num_tokens, width)
    u = torch.linalg.qr(torch.randn(num_tokens, side, generator=generator)).Q
    v = torch.linalg.qr(torch.randn(width, side, generator=generator)).Q
    x = (u * (100.0 / torch.arange(1, side + 1))) @ v.T
    return x * (0.35 * torch.randn(num_tokens, 1, generator=generator)).exp()


def noisy(num_tokens: int, width: int, seed: int) -> Tensor:
    """Low rank + noise + log-normal row scale + a few outlier rows and columns, as LLMs have.

    [N, D] float32
    """
    generator = torch.Generator().manual_seed(seed)
    rank = max(8, num_tokens // 24)
    x = torch.randn(num_tokens, rank, generator=generator) @ torch.randn(
        rank, width, generator=generator
    ) / rank**0.5 + 0.35 * torch.randn(num_tokens, width, generator=generator)
    x *= (0.35 * torch.randn(num_tokens, 1, generator=generator)).exp()
    x[:, torch.randperm(width, generator=generator)[:3]] *= 4
    x[torch.randperm(num_tokens, generator=generator)[:5]] *= 3
    return x
