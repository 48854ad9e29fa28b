"""Means over token grids against sums written out."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from foveate.core.grid_blur import grid_blur


def slow(values: Tensor, rows: int, columns: int, sigma: float) -> Tensor:
    out = torch.zeros(rows * columns)
    for here in range(rows * columns):
        total = weights = 0.0
        for there in range(rows * columns):
            down, across = here // columns - there // columns, here % columns - there % columns
            weight = math.exp(-(down**2 + across**2) / (2 * sigma**2))
            total, weights = total + weight * float(values[there]), weights + weight
        out[here] = total / weights
    return out


@pytest.mark.parametrize("sigma", [0.5, 2.0])
def test_sums_written_out(sigma: float) -> None:
    values = torch.rand(4, 12, generator=torch.Generator().manual_seed(1))
    grids = ((3, 4), (2, 6), None, (3, 4))
    blurred = grid_blur(values, grids, sigma)
    for row, image, grid in zip(blurred, values, grids, strict=True):
        expected = image if grid is None else slow(image, *grid, sigma)
        torch.testing.assert_close(row, expected)
    assert not torch.allclose(blurred[0], slow(values[0], 4, 3, sigma)), "any grid would do"


def test_what_stays() -> None:
    values = torch.rand(2, 12, generator=torch.Generator().manual_seed(1))
    assert grid_blur(values, ((3, 4), (3, 4)), 0.0) is values
    assert grid_blur(values, (None, None), 2.0) is values
    assert grid_blur(values, (), 2.0) is values
    torch.testing.assert_close(grid_blur(torch.ones(1, 12), ((3, 4),), 2.0), torch.ones(1, 12))
