"""Orthonormal columns by CholeskyQR2: products, Cholesky factors and triangular solves only."""

from __future__ import annotations

import torch
from torch import Tensor

# Share of the largest diagonal that is added to a Gram matrix before it is factored: far above
# rounding of float64, so that no factor breaks down, far below any direction worth keeping.
SHIFT = 1e-12


def orthonormal(block: Tensor) -> Tensor:
    """A basis of what the columns span, to float64's accuracy where they are independent.

    Yamamoto et al. (Roundoff error analysis of the CholeskyQR2 algorithm, ETNA 44, 2015): with
    B^T B = L L^T the columns of B L^-T are orthonormal up to the condition of B; a second pass
    repairs what the first lost. Householder's QR does the same one column after the other, which
    is slow on a GPU and one matrix at a time; in float32 the factor breaks down at a few dozen
    columns.

    Columns that depend on others become next to nothing instead of an error or NaN: what is
    projected on them then counts as outside the span.

    Args:
        block: [..., D, r], r <= D, any float dtype; zero columns are allowed.

    Returns:
        [..., D, r] float64.
    """
    basis = block.double()
    # Columns of very different lengths are the easiest part of a bad condition.
    length = torch.linalg.vector_norm(basis, dim=-2, keepdim=True)
    basis = basis / torch.where(length > 0, length, 1.0)
    for _ in range(2):
        gram = basis.transpose(-1, -2) @ basis
        diagonal = gram.diagonal(dim1=-2, dim2=-1)
        # Of a block of zeros no share is anything, and its factor is to exist as well.
        most = diagonal.amax(dim=-1, keepdim=True)
        diagonal += SHIFT * torch.where(most > 0, most, 1.0)
        # cholesky_ex does not wait for the device to say whether it worked; the shift sees to it.
        factor = torch.linalg.cholesky_ex(gram).L
        basis = torch.linalg.solve_triangular(
            factor.transpose(-1, -2), basis, upper=True, left=False
        )
    return basis
