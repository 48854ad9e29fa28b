"""Matrices as eight-bit whole numbers with a scale for each row, for files that must be small.

Row i of W is scale_i * Q_i with Q in -127..127 and scale_i = max_j |W_ij| / 127: symmetric, so that
zero stays zero. What a file holds of a matrix `name` is `name` (int8) and `name:scale` (float32); a
module's parameters have no colon in their names, so nothing else can be meant.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

MOST = 127
MARK = ":scale"
# Smaller ones are left alone: scales would eat what is saved, and biases and norms are sensitive.
LEAST_NUMBERS = 4096


def is_worth_it(weight: Tensor) -> bool:
    """Whether a weight is a matrix large enough to be stored in eight bits."""
    return weight.ndim == 2 and weight.numel() >= LEAST_NUMBERS


def to_eight_bits(weight: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest eight-bit matrix.

    Args:
        weight: [rows, columns], finite.

    Returns:
        [rows, columns] int8 and [rows] float32, 0 where a row is zero.
    """
    weight = weight.detach().float()
    scale = weight.abs().amax(dim=1) / MOST
    # A row of zeros divides by 1 and stays zero.
    divisor = torch.where(scale > 0, scale, 1.0).unsqueeze(1)
    return (weight / divisor).round().clamp(-MOST, MOST).to(torch.int8), scale


def from_eight_bits(numbers: Tensor, scale: Tensor) -> Tensor:
    """The matrix again, [rows, columns]; `numbers` and `scale` as of `to_eight_bits`.

    It is rounded to float16, as the other weights of a file are, so that it can be saved as float16
    and hashed without a change.
    """
    return (numbers.float() * scale.unsqueeze(1)).to(torch.float16)


def pack(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a file holds of named weights; those that are not worth it stay as they are."""
    stored: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if is_worth_it(weight):
            stored[name], stored[name + MARK] = to_eight_bits(weight)
        else:
            stored[name] = weight
    return stored


def unpack(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Named weights out of what a file holds; files without eight-bit matrices come back as is."""
    return {
        name: from_eight_bits(value, stored[name + MARK]) if name + MARK in stored else value
        for name, value in stored.items()
        if not name.endswith(MARK)
    }
