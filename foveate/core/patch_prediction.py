"""Patches that their neighbours predict: the edge rule of LOCO-I (JPEG-LS) on a grid of patches.

PixelPrune (arXiv:2604.00886) leaves such patches out before the vision tower. With threshold 0 the
image can be rebuilt from the others to the last bit.
"""

from __future__ import annotations

import torch
from torch import Tensor


def predict(left: Tensor, up: Tensor, corner: Tensor) -> Tensor:
    """LOCO-I's guess from three neighbours, value by value.

    min(left, up) where the corner is at least the larger of them, max(left, up) where it is at most
    the smaller, else left + up - corner.
    """
    low, high = torch.minimum(left, up), torch.maximum(left, up)
    flat = left + up - corner
    return torch.where(corner >= high, low, torch.where(corner <= low, high, flat))


def predicted_patches(patches: Tensor) -> Tensor:
    """What each patch would be by its left, upper and upper left neighbours.

    The first row is predicted from the left, the first column from above; the first patch has
    nothing to be predicted from, and NaN stands for it.

    Args:
        patches: [..., R, C, P] of a grid, P values each.

    Returns:
        The same shape.
    """
    guess = torch.full_like(patches, torch.nan)
    guess[..., 0, 1:, :] = patches[..., 0, :-1, :]
    guess[..., 1:, 0, :] = patches[..., :-1, 0, :]
    guess[..., 1:, 1:, :] = predict(
        patches[..., 1:, :-1, :], patches[..., :-1, 1:, :], patches[..., :-1, :-1, :]
    )
    return guess


def unpredicted(patches: Tensor, threshold: float = 0.0) -> Tensor:
    """Which patches have to stay: those off their prediction by more than a threshold somewhere.

    Predictions are from the patches as they are, not as they would be rebuilt, so that above
    threshold 0 errors of rebuilt patches can add up.

    Args:
        patches: [..., R, C, P] floating point.
        threshold: 0 or more, in the units of the patches.

    Returns:
        [..., R, C] bool, True = stays; the first patch always does.
    """
    error = (patches - predicted_patches(patches)).abs().amax(dim=-1)
    return ~(error <= threshold)  # NaN stays


def rebuild(kept: Tensor, stays: Tensor) -> Tensor:
    """The grid again, from the patches that stayed.

    Args:
        kept: [K, P], in reading order.
        stays: [R, C] bool, from `unpredicted`; K of them True.

    Returns:
        [R, C, P]; with threshold 0 what `unpredicted` was given, bit by bit.
    """
    rows, columns = stays.shape
    patches = kept.new_full((rows, columns, kept.shape[-1]), torch.nan)
    patches[stays] = kept
    # All of a diagonal's neighbours lie on the two diagonals before it.
    for diagonal in range(1, rows + columns - 1):
        row = torch.arange(max(0, diagonal - columns + 1), min(diagonal + 1, rows))
        row = row.to(stays.device)
        row = row[~stays[row, diagonal - row]]
        column = diagonal - row
        left, up = patches[row, column - 1], patches[row - 1, column]
        guess = predict(left, up, patches[row - 1, column - 1])
        # The first row and column have one neighbour; those taken above are not theirs.
        guess = torch.where(column[:, None] == 0, up, guess)
        patches[row, column] = torch.where(row[:, None] == 0, left, guess)
    return patches


def stand_ins(patches: Tensor, stays: Tensor) -> Tensor:
    """For each patch one that stays and stands for it.

    That is itself, or what stands for its left neighbour or, where only the upper one looks like
    it, for the upper.

    Args:
        patches: [R, C, P].
        stays: [R, C] bool.

    Returns:
        [R * C] int64, places in reading order.
    """
    rows, columns, _ = patches.shape
    place = torch.arange(rows * columns, device=patches.device).view(rows, columns)
    unlike = torch.full(stays.shape, torch.inf, dtype=patches.dtype, device=patches.device)
    left, up = unlike.clone(), unlike
    left[:, 1:] = (patches[:, 1:] - patches[:, :-1]).abs().amax(dim=-1)
    up[1:] = (patches[1:] - patches[:-1]).abs().amax(dim=-1)
    parent = torch.where(left <= up, place - 1, place - columns)
    found = torch.where(stays, place, parent).flatten()
    for _ in range((rows * columns).bit_length()):  # each turn doubles how far a chain is followed
        found = found[found]
    return found
