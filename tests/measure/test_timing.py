"""Interleaving and ratios of medians."""

from __future__ import annotations

import pytest

from foveate.measure.timing import interleaved, ratio_of_medians, wall_seconds


def test_rounds_alternate_their_order() -> None:
    calls: list[str] = []

    def contender(name: str) -> float:
        calls.append(name)
        return float(len(calls))

    seconds = interleaved(
        {name: (lambda name=name: contender(name)) for name in "AB"}, rounds=3, warmup=1
    )
    assert "".join(calls) == "ABBAABBA"
    assert seconds == {"A": [4.0, 5.0, 8.0], "B": [3.0, 6.0, 7.0]}  # the warm-up is not counted


def test_progress_counts_all_rounds() -> None:
    done: list[int] = []
    interleaved({"A": lambda: 1.0}, rounds=2, warmup=2, on_round=done.append)
    assert done == [1, 2, 3, 4]


def test_ratio_is_of_medians_and_shrugs_off_an_outlier() -> None:
    ratio = ratio_of_medians([1.0, 1.1, 0.9, 1.0, 50.0], [2.0, 2.2, 1.8, 2.0, 2.0])
    assert ratio.value == pytest.approx(0.5)
    assert ratio.low <= ratio.value <= ratio.high
    assert ratio.low > 0.4


def test_one_round_gives_a_ratio_without_spread() -> None:
    ratio = ratio_of_medians([3.0], [2.0])
    assert (ratio.low, ratio.value, ratio.high) == (1.5, 1.5, 1.5)


@pytest.mark.parametrize(("a", "b"), [([], []), ([1.0], [1.0, 2.0])])
def test_ratio_needs_rounds_in_pairs(a: list[float], b: list[float]) -> None:
    with pytest.raises(ValueError, match="same number"):
        ratio_of_medians(a, b)


def test_no_rounds_is_refused() -> None:
    with pytest.raises(ValueError, match="rounds=0"):
        interleaved({"A": lambda: 1.0}, rounds=0)


def test_wall_seconds_runs_the_work_once() -> None:
    calls: list[int] = []
    assert wall_seconds(lambda: calls.append(1)) >= 0
    assert calls == [1]
