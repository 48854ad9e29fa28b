"""What images of a request keep: its own budgets, ages, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

import foveate
from foveate.core.budget import Budget
from foveate.errors import BudgetError
from foveate.vllm.budgets import (
    Ages,
    budgets_asked,
    kept,
    methods_of_items,
    read_budgets,
    with_budget,
    write_budgets,
)
from foveate.vllm.settings import served_of

SERVER = foveate.DivPrune(keep_ratio=0.5, prune_layer=0)


def ratios(budgets: Any) -> list[float]:
    return [budget.keep_ratio for budget in budgets]


def test_an_image_that_is_old_enough_never_changes_again() -> None:
    """What a prefix cache lives by: budgets of a shorter conversation are those of a longer one,
    but for the images whose age has changed."""
    ages = Ages(shares=(1.0, 0.25, 0.1))
    assert ratios(ages.of(5)) == [0.1, 0.1, 0.1, 0.25, 1.0]
    for num in range(1, 9):
        before, after = ratios(ages.of(num)), ratios(ages.of(num + 1))
        same = [a == b for a, b in zip(before, after, strict=False)]
        assert all(same[: max(0, num - 2)])
        assert not any(same[max(0, num - 2) :])


def test_images_that_age_together_change_together() -> None:
    ages = Ages(shares=(1.0, 0.1), step=3)
    assert [ratios(ages.of(n)) for n in (0, 3, 4, 7)] == [
        [],
        [1.0] * 3,
        [0.1] * 3 + [1.0],
        [0.1] * 6 + [1.0],
    ]
    unchanged = [
        ratios(ages.of(n)) == ratios(ages.of(n + 1))[:n] for n in range(1, 10)
    ]  # only when a group begins does one age
    assert unchanged == [n % 3 != 0 for n in range(1, 10)]


@pytest.mark.parametrize(
    ("asked", "images", "video"),
    [
        (None, None, None),
        ({"keep_ratio": 0.1}, [Budget(keep_ratio=0.1)] * 2, Budget(keep_ratio=0.1)),
        ({"keep_tokens": 5}, [Budget(keep_tokens=5)] * 2, Budget(keep_tokens=5)),
        ({"keep_ratio": [0.1, 1]}, [Budget(keep_ratio=0.1), Budget(keep_ratio=1.0)], None),
        ({"ages": [0.5, 0.2]}, [Budget(keep_ratio=0.2), Budget(keep_ratio=0.5)], None),
        ({"ages": [0.5, 0.2], "age_step": 2}, [Budget(keep_ratio=0.5)] * 2, None),
    ],
)
def test_a_request_says(asked: Any, images: Any, video: Any) -> None:
    assert budgets_asked(asked, 2) == (images, video)


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        (0.1, '"foveate": 0.1 in a request is no object; write e.g. "mm_processor_kwargs": {"fov'),
        ({"method": "random"}, "has no setting 'method'; it has keep_ratio, keep_tokens, ages, "),
        ({}, '"foveate" in a request has nothing; give exactly one of keep_ratio, keep_tokens'),
        ({"keep_ratio": 0.1, "keep_tokens": 3}, "has keep_ratio and keep_tokens; give exactly"),
        ({"keep_ratio": [0.1]}, "keep_ratio in a request has 1 entries, and the request has 2 ima"),
        ({"keep_ratio": [0.1, "x"]}, "keep_ratio='x' is no finite number"),
        ({"keep_ratio": 1.5}, "keep_ratio=1.5 is outside (0, 1]"),
        ({"keep_tokens": True}, "keep_tokens=True is no integer"),
        ({"ages": [0.1, 0.5]}, "ages=[0.1, 0.5] rise; older images cannot keep more than newer"),
        ({"ages": []}, "ages=[] has no share"),
        ({"ages": [2]}, "ages has the share 2.0, which is outside (0, 1]"),
        ({"ages": 0.5}, "ages=0.5 is no tuple of finite numbers"),
        ({"ages": [1], "age_step": 0}, "age_step=0 is below 1"),
        ({"age_step": 2, "keep_ratio": 0.1}, "age_step=2 is given without ages"),
        ({"ages": [1], "keep_ratio": 0.1}, "has ages and keep_ratio; give exactly one of"),
    ],
)
def test_what_a_request_cannot_say(asked: Any, text: str) -> None:
    with pytest.raises(BudgetError) as caught:
        budgets_asked(asked, 2)
    assert text in str(caught.value)


def test_more_than_the_server_s_is_refused() -> None:
    def count(budget: Budget, server: foveate.Method = SERVER, num_tokens: int = 40) -> int:
        return kept(with_budget(server, budget), server, num_tokens, None, 2, "image")

    assert count(Budget(keep_ratio=0.1)) == 4
    assert count(Budget(keep_tokens=20)) == 20
    with pytest.raises(BudgetError) as caught:
        count(Budget(keep_tokens=21))
    assert str(caught.value) == (
        "the request asks for 21 tokens, 21 of the 40 visual tokens of image 2, and this server "
        "keeps at most 20 (50%); ask for less, or start the server with more."
    )
    few = foveate.DivPrune(keep_tokens=30, prune_layer=0)
    # A count above an image is an error of the server's budget, not of a share of it.
    assert count(Budget(keep_ratio=0.5), few, 20) == 10
    with pytest.raises(BudgetError, match="keep_tokens=30 exceeds the 20 visual tokens of image 2"):
        count(Budget(keep_tokens=30), few, 20)


def test_a_method_that_takes_no_budget() -> None:
    with pytest.raises(BudgetError) as caught:
        with_budget(foveate.NoOp(keep_ratio=1.0), Budget(keep_ratio=0.1))
    assert str(caught.value) == (
        "noop keeps 100% of every image, whatever is asked for, and got 10%; serve with another "
        "method, or ask for no budget."
    )
    evs = foveate.Evs(keep_ratio=0.5, prune_layer=0)
    with pytest.raises(BudgetError, match="asks for 10% of image 0, and evs keeps a still image"):
        kept(with_budget(evs, Budget(keep_ratio=0.1)), evs, 40, None, 0, "image")


def test_the_method_of_every_item() -> None:
    videos = foveate.Evs(keep_ratio=0.5, prune_layer=0)
    counts = {"image": 2, "video": 1}

    def found(ages: Ages | None, asked: Any) -> list[tuple[str, str]]:
        made = methods_of_items(SERVER, videos, ages, asked, counts)
        return [(m.name, str(m.budget)) for kind in ("image", "video") for m in made[kind]]

    assert found(None, None) == [("divprune", "50%"), ("divprune", "50%"), ("evs", "50%")]
    ages = Ages(shares=(0.5, 0.1))
    assert found(ages, None) == [("divprune", "10%"), ("divprune", "50%"), ("evs", "50%")]
    # A request's own budget goes before the server's ages.
    assert found(ages, {"keep_ratio": 0.2}) == [
        ("divprune", "20%"),
        ("divprune", "20%"),
        ("evs", "20%"),
    ]


def test_budgets_travel_to_the_model() -> None:
    budgets = [Budget(keep_ratio=1 / 3), Budget(keep_tokens=7), Budget(keep_ratio=1.0)]
    rows = write_budgets(with_budget(SERVER, budget) for budget in budgets)
    assert rows.shape == (3, 2)
    assert read_budgets(rows) == budgets


def test_ages_in_the_server_s_settings() -> None:
    served = served_of({"foveate": {"method": "divprune", "ages": [0.5, 0.1], "age_step": 4}})
    assert served is not None
    assert str(served.method.budget) == "50%"
    assert served.ages == Ages(shares=(0.5, 0.1), step=4)
    for entry, text in (
        ({"ages": [1, 0.1], "keep_ratio": 0.5}, "has ages and keep_ratio; give one of them"),
        ({"age_step": 2, "keep_ratio": 0.5}, "age_step=2 is given without ages"),
        ({"method": "noop", "ages": [1, 0.1]}, "noop keeps 100% of every image"),
    ):
        with pytest.raises(BudgetError) as caught:
            served_of({"foveate": entry})
        assert text in str(caught.value)
