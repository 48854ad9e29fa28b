"""The edge rule on patches: by hand, against a slow writing-out, and rebuilt to the last bit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from foveate.core.patch_prediction import (
    predict,
    predicted_patches,
    rebuild,
    stand_ins,
    unpredicted,
)


@pytest.mark.parametrize(
    ("left", "up", "corner", "guess"),
    [
        (5.0, 5.0, 5.0, 5.0),  # flat
        (2.0, 9.0, 9.0, 2.0),  # the corner continues above: an edge to the left
        (9.0, 2.0, 9.0, 2.0),
        (9.0, 2.0, 2.0, 9.0),
        (2.0, 9.0, 1.0, 9.0),
        (4.0, 6.0, 5.0, 5.0),  # a slope: 4 + 6 - 5
    ],
)
def test_edge_rule(left: float, up: float, corner: float, guess: float) -> None:
    assert predict(*(torch.tensor(v) for v in (left, up, corner))) == guess


def picture(rows: int, columns: int, seed: int) -> Tensor:
    """Flat areas, repeated stripes, a slope and noise: [R, C, 12]."""
    generator = torch.Generator().manual_seed(seed)
    patches = torch.zeros(rows, columns, 12)
    patches[rows // 3 :, : columns // 2] = torch.rand(12, generator=generator)
    patches[rows // 2] = torch.rand(12, generator=generator)
    slope = torch.arange(columns).view(1, -1, 1) + torch.arange(rows).view(-1, 1, 1)
    patches[:, -3:] = slope[:, -3:].float()
    noisy = torch.rand(rows, columns, generator=generator) < 0.15
    patches[noisy] = torch.rand(int(noisy.sum()), 12, generator=generator)
    return patches


def slowly(patches: Tensor, threshold: float) -> list[list[bool]]:
    rows, columns, width = patches.shape
    found = [[True] * columns for _ in range(rows)]
    x = patches.tolist()
    for r in range(rows):
        for c in range(columns):
            if not r and not c:
                continue
            error = 0.0
            for p in range(width):
                if not r:
                    guess = x[r][c - 1][p]
                elif not c:
                    guess = x[r - 1][c][p]
                else:
                    a, b, d = x[r][c - 1][p], x[r - 1][c][p], x[r - 1][c - 1][p]
                    guess = (
                        min(a, b) if d >= max(a, b) else max(a, b) if d <= min(a, b) else a + b - d
                    )
                error = max(error, abs(x[r][c][p] - guess))
            found[r][c] = error > threshold
    return found


@pytest.mark.parametrize("threshold", [0.0, 0.1])
@pytest.mark.parametrize(("rows", "columns"), [(9, 12), (1, 6), (7, 1)])
def test_against_a_slow_writing_out(rows: int, columns: int, threshold: float) -> None:
    patches = picture(rows, columns, 1).double()
    assert unpredicted(patches, threshold).tolist() == slowly(patches, threshold)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 9), (8, 1), (14, 11)])
def test_rebuilt_to_the_last_bit(rows: int, columns: int, seed: int) -> None:
    patches = picture(rows, columns, seed)
    stays = unpredicted(patches)
    again = rebuild(patches[stays], stays)
    assert torch.equal(again, patches)
    if rows > 1 and columns > 9:
        assert int(stays.sum()) < 0.7 * stays.numel()


def test_a_patch_that_is_missing_is_noticed() -> None:
    """The control: what stays is needed."""
    patches = picture(14, 11, 0)
    stays = unpredicted(patches)
    row, column = stays.nonzero()[5].tolist()
    stays[row, column] = False
    assert not torch.equal(rebuild(patches[stays], stays), patches)


def test_a_threshold_leaves_more_out() -> None:
    patches = picture(14, 11, 0)
    counts = [int(unpredicted(patches, threshold).sum()) for threshold in (0.0, 0.5, 100.0)]
    assert counts[0] > counts[1] > counts[2] == 1


def test_the_first_patch_stays_whatever_it_is() -> None:
    blank = torch.zeros(5, 6, 3)
    assert unpredicted(blank).flatten().tolist() == [True] + 29 * [False]
    assert predicted_patches(blank)[0, 0].isnan().all()


def test_frames_are_grids_of_their_own() -> None:
    frames = torch.stack([picture(6, 7, seed) for seed in range(3)])
    together = unpredicted(frames)
    for frame, mask in zip(frames, together, strict=True):
        assert torch.equal(unpredicted(frame), mask)


def test_who_stands_for_whom() -> None:
    """Two flat areas side by side: the first patch stands for its half, the first of the other.

    a a b b
    a a b b
    """
    patches = torch.tensor([[0.0, 0, 1, 1], [0, 0, 1, 1]])[..., None]
    stays = unpredicted(patches)
    assert stays.tolist() == [[True, False, True, False], [False, False, False, False]]
    assert stand_ins(patches, stays).tolist() == [0, 0, 2, 2, 0, 0, 2, 2]


@pytest.mark.parametrize("seed", range(3))
def test_those_who_stand_for_others_stay(seed: int) -> None:
    patches = picture(14, 11, seed)
    stays = unpredicted(patches, 0.2)
    found = stand_ins(patches, stays)
    assert bool(stays.flatten()[found].all())
    own = torch.arange(found.numel())
    assert torch.equal(found[stays.flatten()], own[stays.flatten()])
