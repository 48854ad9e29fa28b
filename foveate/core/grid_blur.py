"""Values of tokens blurred over the grid that the tokens form."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from foveate.core.layout import sent


def grid_blur(values: Tensor, grids: Sequence[tuple[int, int] | None], sigma: float) -> Tensor:
    """Gaussian means over each image's token grid.

    At a border the weights that fall outside are shared out among those inside, so that a constant
    stays what it is.

    Args:
        values: [G, N] float.
        grids: (rows, columns) of each image's grid, row by row; None, or () for all: tokens that
            form no single grid stay as they are, as nothing says which are neighbours.
        sigma: of the Gaussian, in tokens; 0 changes nothing.

    Returns:
        [G, N] in the dtype of `values`.
    """
    known = dict.fromkeys(grid for grid in grids if grid is not None)
    if not sigma or not known:
        return values
    blurred = values
    for grid in known:
        rows, columns = grid
        down, across = (_means(n, sigma, values) for n in grid)
        image = (down @ values.reshape(-1, rows, columns) @ across.T).flatten(1)
        # Of all images, and then of those with this grid: an index would wait for the device.
        own = sent(torch.tensor([[found == grid] for found in grids]), values.device)
        blurred = torch.where(own, image, blurred)
    return blurred


def _means(n: int, sigma: float, like: Tensor) -> Tensor:
    """[n, n], rows of Gaussian weights that sum to 1."""
    place = torch.arange(n, device=like.device, dtype=like.dtype)
    return (-((place[:, None] - place) ** 2) / (2 * sigma**2)).softmax(dim=-1)
