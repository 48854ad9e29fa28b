"""What the paper's 1.23x was measured with: eager attention in every layer, and a whole SVD.

TokenCarve's official code (arXiv:2503.10501) scores tokens by `torch.linalg.svd` of each image's
states. Here that score takes the exact one's place while it is measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from foveate.core.information import INFORMATION_SCORES


def information_full_svd(x: Tensor) -> Tensor:
    """sum_j |U_ij| s_j of x [..., N, D], by a whole SVD in float32. [..., N]"""
    u, s, _ = torch.linalg.svd(x.float(), full_matrices=True)
    return (u[..., : s.shape[-1]].abs() * s.unsqueeze(-2)).sum(-1)


@contextmanager
def exact_is_a_full_svd() -> Iterator[None]:
    """In here `information_score="exact"` is a whole SVD."""
    ours = INFORMATION_SCORES["exact"]
    INFORMATION_SCORES["exact"] = information_full_svd
    try:
        yield
    finally:
        INFORMATION_SCORES["exact"] = ours
