"""The draws of every interval, pinned: published figures must come out again to the last digit."""

from __future__ import annotations

import numpy as np
import pytest

from foveate.measure.quality import (
    Interval,
    accuracy,
    clustered_mean,
    macro_mean,
    macro_ratio,
    paired_difference,
)
from foveate.measure.timing import ratio_of_medians

_GENERATOR = np.random.default_rng(3)
VALUES = _GENERATOR.random(40).tolist()
RIGHT, OTHER = [v > 0.4 for v in VALUES], [bool(v > 0.6) for v in _GENERATOR.random(40)]
NAMES = [f"d{i % 7}" for i in range(40)]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (accuracy(RIGHT, NAMES), (0.575, 0.475, 0.6666666666666666)),
        (
            paired_difference(RIGHT, OTHER, NAMES, resamples=500, seed=1),
            (0.05, -0.075, 0.18682432432432422),
        ),
        (
            clustered_mean(VALUES, NAMES),
            (0.47956568693680063, 0.44169041329475417, 0.5152253421589896),
        ),
        (
            macro_mean([(VALUES, NAMES), (VALUES[:9], NAMES[:9])], resamples=300, seed=2),
            (0.44014501689476077, 0.35468769037984843, 0.5405493596900189),
        ),
        (
            ratio_of_medians(VALUES[:9], VALUES[9:18]),
            (0.838190941604871, 0.24059780079023443, 1.3518907466923418),
        ),
    ],
    ids=["accuracy", "paired", "clustered", "macro", "medians"],
)
def test_draws_are_those_of_the_published_tables(
    found: Interval, expected: tuple[float, float, float]
) -> None:
    assert (found.value, found.low, found.high) == expected


def test_a_ratio_is_drawn_together() -> None:
    """A share of a gain is surer than either: half of each value is half, whatever is drawn."""
    half = [v / 2 for v in VALUES]
    groups = [(half, VALUES, NAMES), (half[:9], VALUES[:9], NAMES[:9])]
    found = macro_ratio(groups, resamples=300)
    assert found is not None
    assert [found.value, found.low, found.high] == pytest.approx([0.5] * 3)
    loose = macro_ratio([(OTHER, VALUES, NAMES)], resamples=300)  # type: ignore[list-item]
    assert loose is not None
    assert loose.value == pytest.approx(sum(OTHER) / sum(VALUES))
    assert loose.low < loose.value < loose.high


def test_a_ratio_over_nothing_certain_is_none() -> None:
    around = [v - 0.48 for v in VALUES]
    assert macro_ratio([(VALUES, around, NAMES)]) is None
    assert macro_ratio([(VALUES, [0.0] * 40, NAMES)]) is None
