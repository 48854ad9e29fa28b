"""Information score of a token: how much it carries in the singular basis of its image.

For visual tokens X = U diag(s) V^T the score of token i is c_i = sum_j |U_ij| s_j
(arXiv:2503.10501, section 3; the official code computes it by a full SVD). U diag(s) = X V needs no
SVD of X: the eigenvectors of a Gram matrix, N x N or D x D whichever is smaller, give the same
rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from foveate.errors import MethodError


def information_exact(x: Tensor) -> Tensor:
    """Exact score by the eigendecomposition of the smaller Gram matrix.

    The Gram matrix is accumulated in float32 (float64 if x is) and decomposed in float64:
    decomposing in float32 changes a few kept tokens, float64 none (docs/results).

    Args:
        x: [..., N, D] any float dtype; computed from its float32 values.

    Returns:
        [..., N] float64, non-negative. Zero for zero rows.
    """
    x = x if x.dtype == torch.float64 else x.float()
    n, d = x.shape[-2:]
    if n <= d:
        # X X^T = U diag(s^2) U^T, so |U| @ s needs nothing else.
        eigenvalues, u = torch.linalg.eigh((x @ x.transpose(-1, -2)).double())
        return (u.abs() @ eigenvalues.clamp_min(0).sqrt().unsqueeze(-1)).squeeze(-1)
    _, v = torch.linalg.eigh((x.transpose(-1, -2) @ x).double())
    return (x.double() @ v).abs().sum(dim=-1)


def information_subspace(x: Tensor, rank: int = 64, iterations: int = 3) -> Tensor:
    """Approximate score from the leading `rank` singular directions, by block subspace iteration.

    Only matrix products, thin QR factorisations and one rank x rank eigendecomposition, so it suits
    accelerators, where a large float64 eigendecomposition is slow. What lies outside the subspace
    counts by its row norm, spread as in an isotropic remainder. The start block is deterministic.

    Args:
        x: [..., N, D].
        rank: directions kept, capped at min(N, D).
        iterations: power iterations on the Gram matrix; each is one product and one thin QR.

    Returns:
        [..., N] float32.

    Raises:
        MethodError: for a rank below 1 or a negative number of iterations.
    """
    if rank < 1 or iterations < 0:
        raise MethodError(
            f"got rank={rank}, iterations={iterations}; "
            "rank must be at least 1 and iterations at least 0."
        )
    x = x.float()
    n, d = x.shape[-2:]
    side = min(n, d)
    rank = min(rank, side)
    gram = x @ x.transpose(-1, -2) if n <= d else x.transpose(-1, -2) @ x  # [..., side, side]
    start = torch.linspace(0, side - 1, rank, device=x.device).round().long()
    basis = torch.linalg.qr(gram[..., start]).Q  # [..., side, r]
    for _ in range(iterations):
        basis = torch.linalg.qr(gram @ basis).Q
    # Rotate to singular directions: the L1 norm depends on the basis.
    squared, rotation = torch.linalg.eigh(basis.transpose(-1, -2) @ (gram @ basis))
    basis = basis @ rotation
    # [..., N, r]: U diag(s), or the same from the right singular vectors
    inside = basis * squared.clamp_min(0).sqrt().unsqueeze(-2) if n <= d else x @ basis
    remainder = (x.square().sum(-1) - inside.square().sum(-1)).clamp_min(0)  # [..., N]
    # E|g| = sqrt(2/pi) sigma for a Gaussian: the L1 norm of an isotropic remainder.
    tail = (2 * (side - rank) / torch.pi * remainder).sqrt()
    return inside.abs().sum(-1) + tail


def information_norm(x: Tensor) -> Tensor:
    """Row L2 norm, a very cheap stand-in for the information score. [..., N] float32"""
    return x.float().norm(dim=-1)


INFORMATION_SCORES = {
    "exact": information_exact,
    "subspace": information_subspace,
    "norm": information_norm,
}
