"""The join of scores and the choice within a budget: by hand, and against trying everything."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from foveate.vist.fixation.choose import WEIGHTS, choose_segments, join_scores, thin_out, weighted


def test_evidence_adds_up_and_attention_counts_by_its_best() -> None:
    words, attention = np.array([4.0, 2.0, 0.0]), np.array([0.0, 0.1, 0.2])
    got = join_scores({"words": words, "attention": attention})
    half = WEIGHTS["attention"] / 2
    np.testing.assert_allclose(got, [1.0, 0.5 + half, 2 * half])
    # The index is in the same unit: its scale against that of words is kept.
    meant, weight = np.array([0.0, 0.0, 1.0]), WEIGHTS["index-words"]
    got = join_scores({"words": words, "index-words": meant})
    np.testing.assert_allclose(got, [1.0, 0.5, weight / 4])
    got = join_scores({"words": words / 100, "index-words": meant})
    np.testing.assert_allclose(got, [0.04 / weight, 0.02 / weight, 1.0])
    # A part that says nothing changes nothing.
    nothing = np.zeros(3)
    np.testing.assert_array_equal(
        join_scores({"words": words, "attention": nothing}), join_scores({"words": words})
    )
    assert set(weighted({"words": words, "index-pictures": nothing})) == {"words", "index-pictures"}
    np.testing.assert_array_equal(join_scores({"words": nothing, "index-words": nothing}), nothing)
    np.testing.assert_allclose(join_scores({"attention": attention}), [0, half, 2 * half])


@pytest.mark.parametrize(
    ("budget", "floor", "expected"),
    [
        (100, 0.0, [2, 0, 1]),
        (100, 0.5, [2, 0]),
        (100, 0.9, [2]),
        (12, 0.0, [2]),
        (13, 0.0, [2, 1]),  # 0 does not fit, the next one does
        (9, 0.0, [0]),
        (9, 0.6, [0]),  # of what fits, it is the best
        (7, 0.9, [1]),
        (0, 0.0, []),
    ],
)
def test_best_first_within_a_budget(budget: int, floor: float, expected: list[int]) -> None:
    scores = np.array([2.0, 1.0, 3.0, 0.0])
    assert choose_segments(scores, [8, 3, 10, 1], budget, floor) == expected


def test_ties_go_to_the_earlier_and_nothing_is_never_chosen() -> None:
    assert choose_segments(np.array([1.0, 1.0]), [5, 5], 5) == [0]
    assert choose_segments(np.zeros(3), [1, 1, 1], 9) == []
    assert choose_segments(np.zeros(0), [], 9) == []


@pytest.mark.parametrize(
    ("count", "budget"), [*itertools.product([0, 1, 5, 12], [-3, 0, 1, 5, 30])]
)
def test_thinned_entries_are_spread(count: int, budget: int) -> None:
    kept = thin_out(count, budget)
    assert len(kept) == max(0, min(count, budget))
    assert len(set(kept.tolist())) == len(kept)
    if len(kept):
        assert 0 <= kept.min() <= kept.max() < count
        gaps = np.diff(kept)
        assert gaps.max(initial=0) - gaps.min(initial=count) <= 1
