"""Segments within a budget: the best ones, whole, in the order of the text."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from foveate.vist.eval.context import FarContext
from foveate.vist.eval.looked_up import Lookup, within_budget
from tests.vist.eval.fake_subject import FakeSubject

TEXT = " ".join(
    [
        "The ferry left at noon.",
        "A green boat carried seven barrels of salt.",
        "The clerk painted the door.",
        "Nobody remembered the lighthouse keeper.",
    ]
)


@pytest.fixture
def far() -> FarContext:
    return FarContext(source=FakeSubject().encode(TEXT))


@pytest.mark.parametrize(
    ("budget", "tokens"),
    [(3, [10, 11, 12]), (4, [10, 11, 12, 13]), (7, [10, 11, 12, 13]),
     (9, [0, 1, 2, 3, 4, *range(10, 14)]), (99, list(range(14))), (0, [])],
)  # fmt: skip
def test_within_budget(budget: int, tokens: list[int]) -> None:
    bounds = [(0, 5), (5, 10), (10, 14)]
    assert within_budget(np.array([1.0, 1.0, 2.0]), bounds, budget) == tokens


def test_by_words(far: FarContext) -> None:
    found = Lookup(far).by_words("What was in the boat?", 8)
    assert found is not None
    assert found.source.text.strip() == "A green boat carried seven barrels of salt."
    assert found.span == len(found.ids) == 8
    bounds = [*found.source.starts, len(found.source.text)]
    cuts = [found.source.text[a:b].strip() for a, b in itertools.pairwise(bounds)]
    assert " ".join(cuts) == "A green boat carried seven barrels of salt."


def test_order_of_the_text_and_budget(far: FarContext) -> None:
    found = Lookup(far).by_words("the lighthouse keeper on the boat", 13)
    assert found is not None
    assert found.source.text.split()[1] == "green"
    assert found.source.text.split()[-2:] == ["lighthouse", "keeper."]
    assert Lookup(far).by_words("boat", 0) is None


def test_by_chance(far: FarContext) -> None:
    drawn = {
        found.source.text
        for seed in range(20)
        if (found := Lookup(far).by_chance(5, np.random.default_rng(seed))) is not None
    }
    assert len(drawn) == 3  # the fourth is too long
