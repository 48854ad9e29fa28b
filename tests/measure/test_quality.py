"""Exact match and its intervals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foveate.measure.quality import accuracy, exact_match, normalise, paired_difference


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  The  Red\tCircle. ", "red circle"),
        ("A", "a"),
        ("an apple", "apple"),
        ("3.5", "3.5"),
        ("$12,", "12"),
        ("-5", "-5"),
        ("well-known", "well-known"),
        ("'yes'", "yes"),
        ("...", ""),
        ("", ""),
        ("ẞ", "ss"),
    ],
)
def test_normalise(text: str, expected: str) -> None:
    assert normalise(text) == expected


@given(st.text())
def test_normalise_changes_nothing_twice(text: str) -> None:
    once = normalise(text)
    assert normalise(once) == once


@pytest.mark.parametrize(
    ("prediction", "answers", "expected"),
    [
        ("Yes.", ("yes",), True),
        ("35", ("3.5",), False),
        ("5", ("-5",), False),
        ("the red one", ("blue", "red one"), True),
        ("reddish", ("red",), False),
        ("", ("yes",), False),
    ],
)
def test_exact_match(prediction: str, answers: tuple[str, ...], expected: bool) -> None:
    assert exact_match(prediction, answers) is expected


def test_accuracy_is_the_share_and_lies_inside_its_interval() -> None:
    correct = [True, False, True, True] * 10
    result = accuracy(correct, [str(i) for i in range(40)])
    assert result.value == 0.75
    assert 0.5 < result.low < 0.75 < result.high < 0.95


def test_interval_matches_the_normal_approximation_for_independent_images() -> None:
    generator = np.random.default_rng(0)
    correct = list(generator.random(2000) < 0.7)
    result = accuracy(correct, [str(i) for i in range(2000)])
    half = 1.96 * (result.value * (1 - result.value) / 2000) ** 0.5
    assert result.high - result.value == pytest.approx(half, rel=0.1)
    assert result.value - result.low == pytest.approx(half, rel=0.1)


def test_questions_about_one_image_count_as_one_draw() -> None:
    """Copies of a question add nothing: the interval is as wide as with one question per image."""
    single = accuracy([True, False] * 20, [str(i) for i in range(40)])
    copied = accuracy(
        [True] * 5 * 20 + [False] * 5 * 20, [str(i) for i in range(40) for _ in range(5)]
    )
    apart = accuracy([True] * 100 + [False] * 100, [str(i) for i in range(200)])
    width = copied.high - copied.low
    assert width == pytest.approx(single.high - single.low, rel=0.15)
    assert width > 1.8 * (apart.high - apart.low)


@pytest.mark.parametrize(("value", "low", "high"), [(True, 0.838, 1.0), (False, 0.0, 0.162)])
def test_all_right_or_all_wrong_still_has_an_interval(value: bool, low: float, high: float) -> None:
    result = accuracy([value] * 20, [str(i) for i in range(20)])
    assert (result.low, result.high) == (
        pytest.approx(low, abs=1e-3),
        pytest.approx(high, abs=1e-3),
    )


def test_paired_difference_is_narrower_than_the_unpaired_intervals() -> None:
    generator = np.random.default_rng(1)
    reference = list(generator.random(300) < 0.6)
    better = [old or bool(generator.random() < 0.1) for old in reference]
    images = [str(i) for i in range(300)]
    gap = paired_difference(better, reference, images)
    assert gap.value == pytest.approx(np.mean(better) - np.mean(reference))
    assert 0 < gap.low < gap.value < gap.high
    single = accuracy(reference, images)
    assert gap.high - gap.low < single.high - single.low


def test_paired_difference_of_equal_answers_is_zero_but_not_certain() -> None:
    gap = paired_difference([True, False], [True, False], ["a", "b"])
    assert gap.value == 0
    assert gap.low < 0 < gap.high


def test_intervals_are_deterministic() -> None:
    correct, images = [True, False, False] * 5, [str(i // 2) for i in range(15)]
    assert accuracy(correct, images) == accuracy(correct, images)
    assert accuracy(correct, images, seed=1) != accuracy(correct, images, seed=2)


@pytest.mark.parametrize(("correct", "images"), [([], []), ([True], ["a", "b"])])
def test_accuracy_refuses_what_does_not_fit(correct: list[bool], images: list[str]) -> None:
    with pytest.raises(ValueError, match="one name per answer"):
        accuracy(correct, images)


def test_difference_refuses_other_lengths() -> None:
    with pytest.raises(ValueError, match="1 answers but 2"):
        paired_difference([True], [True, False], ["a"])
