"""Information score of a token: how much it carries in the singular basis of its image.

For visual tokens X = U diag(s) V^T the score of token i is c_i = sum_j |U_ij| s_j
(arXiv:2503.10501, section 3; the official code computes it by a full SVD). U diag(s) = X V needs no
SVD of X: the eigenvectors of a Gram matrix, N x N or D x D whichever is smaller, give the same
rows. Above a few hundred or thousand rows that eigendecomposition costs more than it is worth, and
the leading directions are found by products of X with a thin block instead.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from foveate.core.orthonormal import orthonormal
from foveate.errors import MethodError

RANK = 64
ITERATIONS = 2
# Largest min(N, D) whose float64 eigendecomposition is cheap. A CPU core takes 0.2 s at 1,024, five
# times the subspace form, and 50 times at 4,096. A GPU decomposes float64 matrices one image at a
# time and hardly in parallel: one of 576 costs as much as the whole prefill it is to shorten.
EXACT_UP_TO = {"cpu": 1024}
EXACT_UP_TO_ELSEWHERE = 256


def information_exact(x: Tensor) -> Tensor:
    """Exact score by the eigendecomposition of the smaller Gram matrix.

    The Gram matrix is accumulated in float32 (float64 if x is) and decomposed in float64:
    decomposing in float32 changes a few kept tokens, float64 none (docs/results).

    Args:
        x: [..., N, D] any float dtype; computed from its float32 values.

    Returns:
        [..., N] float64, non-negative. Zero for zero rows.
    """
    x, size = _scaled(x if x.dtype == torch.float64 else x.float())
    n, d = x.shape[-2:]
    if n <= d:
        # X X^T = U diag(s^2) U^T, so |U| @ s needs nothing else.
        eigenvalues, u = torch.linalg.eigh((x @ x.transpose(-1, -2)).double())
        return (u.abs() @ eigenvalues.clamp_min(0).sqrt().unsqueeze(-1)).squeeze(-1) * size
    _, v = torch.linalg.eigh((x.transpose(-1, -2) @ x).double())
    return (x.double() @ v).abs().sum(dim=-1) * size


def _scaled(x: Tensor) -> tuple[Tensor, Tensor]:
    """x [..., N, D] without the power of two that makes its largest entry about 1, and that power.

    Squares of large float32 states overflow, those of small ones vanish. Nothing is rounded.

    Returns:
        (x / p [..., N, D], p [..., 1] float64).
    """
    largest = torch.linalg.vector_norm(x, torch.inf, dim=(-2, -1), keepdim=True)
    power = torch.frexp(largest).exponent.clamp(-126, 126).double()  # float32 has both of them
    return x * torch.exp2(-power).to(x.dtype), torch.exp2(power).squeeze(-1)


def information_subspace(x: Tensor, rank: int = RANK, iterations: int = ITERATIONS) -> Tensor:
    """Approximate score from the leading `rank` singular directions, by block subspace iteration.

    V, a thin block of right singular directions, starts as signed sums of rows of X and is replaced
    by an orthonormal basis of X^T (X V) `iterations` times. Only products with X, and matrices of
    `rank` columns: no Gram matrix, O(N D rank) in all, images side by side. What lies outside the
    subspace counts by its row norm, spread as in an isotropic remainder.

    Args:
        x: [..., N, D] any float dtype; products are float32, what is orthonormal is made so in
            float64 (see `core.orthonormal`).
        rank: directions kept, capped at min(N, D).
        iterations: each is two products.

    Returns:
        [..., N] float64, non-negative. Zero for zero rows.

    Raises:
        MethodError: for a rank below 1 or a negative number of iterations.
    """
    if rank < 1 or iterations < 0:
        raise MethodError(
            f"got rank={rank}, iterations={iterations}; "
            "rank must be at least 1 and iterations at least 0."
        )
    x, size = _scaled(x.float())
    n, d = x.shape[-2:]
    side = min(n, d)
    rank = min(rank, side)
    basis = orthonormal(x.transpose(-1, -2) @ _signs(n, rank, x.device))  # [..., D, r]
    for _ in range(iterations):
        basis = orthonormal(x.transpose(-1, -2) @ (x @ basis.float()))
    inside = (x @ basis.float()).double()  # [..., N, r]
    # Rotate to singular directions: the L1 norm depends on the basis.
    _, rotation = torch.linalg.eigh(inside.transpose(-1, -2) @ inside)
    inside = inside @ rotation
    squared_norm = torch.linalg.vector_norm(x, dim=-1, dtype=torch.float64).square()
    remainder = (squared_norm - inside.square().sum(-1)).clamp_min(0)  # [..., N]
    # E|g| = sqrt(2/pi) sigma for a Gaussian: the L1 norm of an isotropic remainder.
    tail = (2 * (side - rank) / torch.pi * remainder).sqrt()
    return (inside.abs().sum(-1) + tail) * size


def _signs(num_rows: int, count: int, device: torch.device) -> Tensor:
    """A count sketch: X^T of it are `count` sums of every `count`-th row of X, with mixed signs.

    All rows are in one, so that blank ones do no harm, and equal ones do not cancel.

    Returns:
        [num_rows, count] float32, one 1 or -1 in each row, the same in every call.
    """
    row = torch.arange(num_rows, device=device)
    bit = (row * 2654435761 >> 16) & 1  # Knuth's multiplicative hash
    column = torch.arange(count, device=device)
    return (row.unsqueeze(-1) % count == column) * (1.0 - 2.0 * bit).unsqueeze(-1)


def information_norm(x: Tensor) -> Tensor:
    """Row L2 norm, a very cheap stand-in for the information score. [..., N] float32"""
    return x.float().norm(dim=-1)


INFORMATION_SCORES = {
    "exact": information_exact,
    "subspace": information_subspace,
    "norm": information_norm,
}


def score_in_use(num_tokens: int, width: int, device: torch.device) -> Literal["exact", "subspace"]:
    """The name in INFORMATION_SCORES that "auto" stands for: "exact" wherever that is cheap.

    Args:
        num_tokens, width: N and D.
        device: where X is.
    """
    limit = EXACT_UP_TO.get(device.type, EXACT_UP_TO_ELSEWHERE)
    return "exact" if min(num_tokens, width) <= limit else "subspace"


def exact_seconds(num_tokens: int, width: int) -> float:
    """What `information_exact` of one image takes on one CPU core, measured and extrapolated."""
    side = min(num_tokens, width)
    product = 2 * num_tokens * width * side / 140e9  # float32
    rotation = 2 * product if num_tokens > width else 0.0  # the same in float64
    return product + 1.6e-10 * side**3 + rotation


def exact_bytes(num_images: int, num_tokens: int, width: int) -> int:
    """What `information_exact` holds at its peak beside X."""
    side = min(num_tokens, width)
    of_side = num_images * (4 + 8 + 8) * side**2 + 3 * 8 * side**2  # Gram, vectors; LAPACK's space
    of_states = num_images * num_tokens * width * (4 + (8 + 8 if num_tokens > width else 0))
    return of_side + of_states
