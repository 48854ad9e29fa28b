"""Density peaks, worked by hand."""

from __future__ import annotations

import torch

from foveate.core.density_peaks import density_peaks


def test_two_groups_on_a_line() -> None:
    """Squares of the distance to the nearest other: 1, 1, 4, 0.25, 0.25 hundredths.

    So 5 and 5.05 are densest, the first of them leads. Farthest from anything denser are 5 itself
    (the longest distance of all) and 0 (5 away); 0.1 has 0, as dense and before it.
    """
    x = torch.tensor([[[0.0], [0.1], [0.3], [5.0], [5.05]]])
    centres, owner = density_peaks(x, 2)
    assert centres.tolist() == [[0, 3]]
    assert owner.tolist() == [[0, 0, 0, 3, 3]]


def test_distances_are_of_whole_states_not_of_directions() -> None:
    """All point the same way: by cosine there would be one place only."""
    x = torch.tensor([[[1.0, 1.0], [1.1, 1.1], [9.0, 9.0], [9.2, 9.2]]])
    _, owner = density_peaks(x, 2)
    assert owner[0, 0] == owner[0, 1]
    assert owner[0, 2] == owner[0, 3]
    assert owner[0, 0] != owner[0, 2]


def test_centres_own_themselves() -> None:
    centres, owner = density_peaks(torch.zeros(1, 4, 3), 3)
    assert centres.tolist() == [[0, 1, 2]]
    assert owner[0, :3].tolist() == [0, 1, 2]
