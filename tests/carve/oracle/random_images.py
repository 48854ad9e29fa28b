"""Random states of images: plain ones, and those on which a selection has to break ties."""

from __future__ import annotations

import torch
from torch import Tensor

from foveate.core.visual import VisualTokens

NUM_TEXT = 5
# Few tokens, more than a pool of half the constants, a count of no power of two.
SIZES = (2, 3, 9, 40, 97, 150)


def spread(generator: torch.Generator, n: int, width: int) -> Tensor:
    return torch.randn(n, width, generator=generator)


def low_rank(generator: torch.Generator, n: int, width: int) -> Tensor:
    mixed = torch.randn(n, 3, generator=generator) @ torch.randn(3, width, generator=generator)
    return mixed + 0.3 * torch.randn(n, width, generator=generator)


def copies(generator: torch.Generator, n: int, width: int) -> Tensor:
    """About four of each token, anywhere."""
    which = torch.randint(0, max(1, n // 4), (n,), generator=generator)
    return torch.randn(n, width, generator=generator)[which]


def zeros(generator: torch.Generator, n: int, width: int) -> Tensor:
    """Every third token is zeros."""
    x = torch.randn(n, width, generator=generator)
    x[::3] = 0
    return x


def constant(generator: torch.Generator, n: int, width: int) -> Tensor:
    return torch.randn(1, width, generator=generator).expand(n, -1).clone()


def few_dimensions(generator: torch.Generator, n: int, width: int) -> Tensor:
    """Of rank 2: most kernels are spent long before the budget is."""
    return torch.randn(n, 2, generator=generator) @ torch.randn(2, width, generator=generator)


GENERIC = (spread, low_rank)
KINDS = (*GENERIC, copies, zeros, constant, few_dimensions)


def images(seed: int, kinds: tuple = KINDS, width: int = 32) -> tuple[VisualTokens, int]:
    """One to three images of different kinds, and a budget: one, all but one, or any."""
    generator = torch.Generator().manual_seed(seed)
    n = SIZES[seed % len(SIZES)]
    num_images = 1 + seed % 3
    drawn = int(torch.randint(1, n, (1,), generator=generator))
    keep = {0: 1, 1: n - 1}.get(seed % 8, drawn)
    states = [
        kinds[(seed // len(SIZES) + i) % len(kinds)](generator, n, width) for i in range(num_images)
    ]
    mask = torch.arange(NUM_TEXT) >= torch.arange(num_images)[:, None]
    text = torch.randn(num_images, NUM_TEXT, width, generator=generator)
    hidden = torch.stack(states)
    visual = VisualTokens(
        hidden=hidden,
        keys=hidden,
        normed=hidden,
        vision_features=hidden,
        text_keys=text * mask.unsqueeze(-1),
        text_normed=text * mask.unsqueeze(-1),
        attention=torch.rand(num_images, 2, n, generator=generator),
        text=text * mask.unsqueeze(-1),
        text_mask=mask,
    )
    return visual, keep
