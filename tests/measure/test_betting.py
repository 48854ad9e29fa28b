"""Bets against a mean: how often they are wrong, also when one looks all the time."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foveate.measure.betting import (
    bounds_of_mean,
    evidence_above,
    evidence_below,
    least_draws,
    proven_in_order,
)

LEVEL = 0.05
NEEDED = math.log(1 / LEVEL)
RUNS = 400
# By chance alone, of 400 runs that are wrong with 5 % each, 34 and more are with 0.1 %.
MOST_WRONG = 33

losses = st.lists(st.sampled_from([-1.0, -0.25, 0.0, 0.0, 0.25, 1.0]), min_size=1, max_size=60)


def paired_losses(mean: float, noise: float, shape: tuple[int, int]) -> npt.NDArray[np.float64]:
    """-1, 0 and 1, [runs, n], with a share `noise` of answers that differ."""
    drawn = np.random.default_rng(0).random(shape)
    worse, better = (noise + mean) / 2, (noise - mean) / 2
    return np.where(drawn < worse, 1.0, np.where(drawn < worse + better, -1.0, 0.0))


def naive_is_proven(values: npt.NDArray[np.float64], limit: float) -> bool:
    """The control: a one-sided 95 % interval of the normal, looked at after every tenth value."""
    for n in range(10, len(values) + 1, 10):
        seen = values[:n]
        if seen.mean() + 1.645 * seen.std(ddof=1) / math.sqrt(n) < limit:
            return True
    return False


@pytest.mark.parametrize(("limit", "noise"), [(0.01, 0.03), (0.03, 0.1), (0.03, 0.03)])
def test_the_limit_itself_is_rarely_proven(limit: float, noise: float) -> None:
    """The worst case: the mean is the limit. The control shows that the test can fail."""
    runs = paired_losses(limit, noise, (RUNS, 1000))
    wrong = sum(evidence_below(run, limit) >= NEEDED for run in runs)
    naive = sum(naive_is_proven(run, limit) for run in runs)
    assert wrong <= MOST_WRONG < naive, (wrong, naive)


def test_without_replacement_the_limit_itself_is_rarely_proven() -> None:
    file = paired_losses(0.03, 0.08, (1, 500))[0]
    generator = np.random.default_rng(1)
    limit = float(file.mean())
    wrong = 0
    for _ in range(RUNS):
        seen = generator.permutation(file)[:450]
        wrong += evidence_below(seen, limit, population=500) >= NEEDED
    assert wrong <= MOST_WRONG


def test_bounds_hold_at_all_times_together() -> None:
    runs = paired_losses(0.05, 0.15, (100, 200))
    missed = 0
    for run in runs:
        several = [bounds_of_mean(run[:n]) for n in (5, 20, 50, 100, 200)]
        missed += any(not bounds.low <= 0.05 <= bounds.high for bounds in several)
    assert missed <= 12  # 5 of 100 expected at most; 13 and more have 0.2 %


@given(losses, st.floats(-0.5, 0.5), st.floats(0, 0.4))
@settings(max_examples=60, deadline=None)
def test_evidence_grows_with_the_limit_and_with_values(
    values: list[float], limit: float, more: float
) -> None:
    for population in (None, 80):
        low = evidence_below(values, limit, population=population)
        assert low <= evidence_below(values, limit + more, population=population) + 1e-9
        assert evidence_below(values[:-1], limit, population=population) <= low


@given(losses)
@settings(max_examples=40, deadline=None)
def test_smaller_losses_are_more_evidence(values: list[float]) -> None:
    better = [max(-1.0, value - 0.5) for value in values]
    assert evidence_below(better, 0.1) >= evidence_below(values, 0.1)
    bounds = bounds_of_mean(values)
    assert -1 <= bounds.low <= bounds.value <= bounds.high <= 1


def test_both_sides_are_each_other_s_mirror() -> None:
    values = paired_losses(0.2, 0.5, (1, 60))[0]
    assert evidence_above(values, 0.05) == evidence_below(-values, -0.05)
    mine, other = bounds_of_mean(values), bounds_of_mean(-values)
    assert mine.low == pytest.approx(-other.high, abs=1e-5)


def test_all_equal() -> None:
    """No loss at all is still no proof of none: the bound is about 3.7 / n."""
    bounds = bounds_of_mean([0.0] * 400)
    assert 0.009 < bounds.high < 0.02
    assert bounds.low == pytest.approx(-bounds.high, abs=1e-5)
    assert evidence_below([0.0] * 400, 0.02) > NEEDED > evidence_below([0.0] * 400, 0.005)


def test_all_lost() -> None:
    assert evidence_below([1.0] * 50, 0.5) == 0
    assert evidence_above([1.0] * 50, 0.5) > NEEDED
    assert bounds_of_mean([1.0] * 50).high == pytest.approx(1)


def test_one_question_proves_nothing() -> None:
    assert evidence_below([0.0], 0.03) < NEEDED
    assert bounds_of_mean([0.0]).high > 0.8
    assert evidence_below([], 0.03) == 0
    with pytest.raises(ValueError, match="no values, so no mean"):
        bounds_of_mean([])


def test_a_population_that_was_drawn_whole_is_known() -> None:
    values = [1.0, 0.0, 0.0, 0.0]
    assert evidence_below(values, 0.26, population=4) == math.inf
    assert evidence_below(values, 0.25, population=4) < NEEDED
    bounds = bounds_of_mean(values, population=4)
    assert (bounds.low, bounds.high) == (
        pytest.approx(0.25, abs=1e-5),
        pytest.approx(0.25, abs=1e-5),
    )
    # One left of a thousand cannot lift the mean to 1 %.
    assert evidence_below([0.0] * 999, 0.01, population=1000) == math.inf


def test_least_draws_are_the_least() -> None:
    for population in (None, 400):
        least = least_draws(0.03, level=LEVEL, population=population)
        assert least is not None
        assert evidence_below([0.0] * least, 0.03, population=population) >= NEEDED
        assert evidence_below([0.0] * (least - 1), 0.03, population=population) < NEEDED
    with_all = least_draws(0.01, level=LEVEL, population=50)
    assert with_all == 50  # only all of them say that none is lost
    assert least_draws(0.01, level=LEVEL) > 300  # type: ignore[operator]
    # Counted, not written out: so many would not fit in memory.
    assert least_draws(1e-9, level=LEVEL) == pytest.approx(3.8e9, rel=0.1)


def test_an_order_stops_at_the_first_that_is_not_proven() -> None:
    assert proven_in_order([9.0, 5.0, 1.0, 9.0], level=LEVEL) == 2
    assert proven_in_order([1.0, 9.0], level=LEVEL) == 0
    assert proven_in_order([9.0], level=LEVEL) == 1
    assert proven_in_order([], level=LEVEL) == 0


@pytest.mark.parametrize(
    ("values", "population", "words"),
    [
        ([0.5, 1.5], None, "values reach 1.5; they have to lie in"),
        ([float("nan")], None, "values reach nan"),
        ([0.0] * 3, 2, "3 values of a population of 2; draw each once"),
    ],
)
def test_refused(values: list[float], population: int | None, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        evidence_below(values, 0.1, population=population)
