"""BM25 over words: against its formula by hand, and what it must not do."""

from __future__ import annotations

import math

import numpy as np
import pytest

from foveate.vist.fixation.lexical import Bm25, words

SEGMENTS = ["The code of Anna is red.", "The code of Bruno is blue, blue, blue.", "A cat slept."]


def test_formula() -> None:
    counts = [3, 5, 2]  # words that are not stop words
    mean = np.mean(counts)
    norm = [1.2 * (0.25 + 0.75 * n / mean) for n in counts]
    anna = math.log(1 + 2.5 / 1.5) * 2.2 / (1 + norm[0])
    code = [math.log(1 + 1.5 / 2.5) * 2.2 / (1 + norm[i]) for i in (0, 1)]
    blue = math.log(1 + 2.5 / 1.5) * 3 * 2.2 / (3 + norm[1])
    got = Bm25(SEGMENTS).scores("What is the code of Anna? Blue?")
    np.testing.assert_allclose(got, [anna + code[0], code[1] + blue, 0])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("What are the Codes of it?", ["code"]),
        ("cities, buses; a glass", ["city", "buse", "glass"]),
        ("is it of the", ["is", "it", "of", "the"]),  # better than none
        ("0x1f user_name É3", ["0x1f", "user", "name", "é3"]),
        ("東京タワー", list("東京タワー")),
        ("", []),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert words(text) == expected


def test_repeating_the_question_changes_nothing() -> None:
    index = Bm25(SEGMENTS)
    np.testing.assert_array_equal(index.scores("Anna Anna"), index.scores("anna"))


def test_no_shared_word_scores_nothing() -> None:
    assert not Bm25(SEGMENTS).scores("Where did the dog go?").any()
    assert Bm25([]).scores("What?").shape == (0,)
    assert not Bm25(["", " "]).scores("What?").any()
