"""Ways to say how much of an image's information k tokens hold, to choose between on dev pages.

Each is a curve: what the first, second, ... token adds. The share of an image's sum that the first
k make up grows with k, so a share says a count.
"""

from __future__ import annotations

import torch
from torch import Tensor

from foveate.core.information import information_exact

__all__ = ["DEFINITIONS", "counts_at_mean"]


def score(x: Tensor) -> Tensor:
    """TokenCarve's score of each token, the largest first. [G, N]"""
    return information_exact(x).sort(dim=-1, descending=True).values


def squared_norms(x: Tensor) -> Tensor:
    """Of the centred tokens, the largest first."""
    return centred(x).square().sum(-1).sort(dim=-1, descending=True).values


def singular_values(x: Tensor) -> Tensor:
    """The largest first."""
    return torch.linalg.svdvals(x)


def pivots(x: Tensor) -> Tensor:
    """What is explained of all tokens by each of those that stand out most from those before."""
    return torch.stack([_explained(of_image @ of_image.T) for of_image in x])


def centred(x: Tensor) -> Tensor:
    return x - x.mean(dim=1, keepdim=True)


def _explained(gram: Tensor) -> Tensor:
    left, total = gram.clone(), float(gram.trace())
    sums = [total]
    for _ in range(len(gram)):
        best = int(left.diagonal().argmax())
        if left[best, best] <= 1e-12 * total:
            break
        left = left - left[:, best, None] * left[best] / left[best, best].clone()
        sums.append(float(left.diagonal().clamp_min(0).sum()))
    steps = -torch.tensor(sums, dtype=torch.float64).diff().clamp_max(0)
    return torch.nn.functional.pad(steps, (0, len(gram) - len(steps)))


DEFINITIONS = {
    "TokenCarve's score": score,
    "TokenCarve's score, centred": lambda x: score(centred(x)),
    "squared norms, centred": squared_norms,
    "singular values": singular_values,
    "singular values, centred": lambda x: singular_values(centred(x)),
    "squared singular values": lambda x: singular_values(x).square(),
    "explained by pivots": pivots,
}


def counts_at_mean(curves: Tensor, mean: float) -> tuple[float, list[int]]:
    """The share at which images keep `mean` tokens on average, and what each then keeps.

    Args:
        curves: [G, N] float64, not negative.
        mean: tokens of an image.
    """
    held = curves.cumsum(dim=1) / curves.sum(dim=1, keepdim=True)
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        found = float((held < middle).sum(dim=1).add(1).double().mean())
        low, high = (middle, high) if found < mean else (low, middle)
    return high, (held < high).sum(dim=1).add(1).clamp_max(curves.shape[1]).tolist()
