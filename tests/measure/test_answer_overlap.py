"""Containment and F1 of free answers."""

from __future__ import annotations

import pytest

from foveate.measure.answer_overlap import answer_f1, contains_answer


@pytest.mark.parametrize(
    ("said", "answers", "held"),
    [
        ("It was the Steam Engine, of course.", ("a steam engine",), True),
        ("There were 15 of them.", ("5",), False),
        ("5.", ("five", "5"), True),
        ("steam and engine", ("steam engine",), False),
        ("", ("x",), False),
        ("anything", ("...",), False),
    ],
)
def test_contains(said: str, answers: tuple[str, ...], held: bool) -> None:
    assert contains_answer(said, answers) is held


@pytest.mark.parametrize(
    ("said", "answers", "f1"),
    [("the red boat", ("red boat",), 1.0), ("a red car", ("red boat", "blue"), 0.5),
     ("no", ("yes",), 0.0), ("", ("yes",), 0.0), ("b b c", ("b c c",), 2 / 3)],
)  # fmt: skip
def test_f1(said: str, answers: tuple[str, ...], f1: float) -> None:
    assert answer_f1(said, answers) == pytest.approx(f1)
