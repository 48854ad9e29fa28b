"""keep_information as a budget: how it is written, bounded, and what is refused."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foveate.core.budget import Budget, parse_budget
from foveate.errors import BudgetError

WRITTEN = {
    "information=95%": Budget(keep_information=0.95),
    "information=95%:16..50%": Budget(keep_information=0.95, keep_min=16, keep_max=0.5),
    "information=95%:16..": Budget(keep_information=0.95, keep_min=16),
    "information=95%:..64": Budget(keep_information=0.95, keep_max=64),
}


@pytest.mark.parametrize("text", WRITTEN)
def test_written_and_read(text: str) -> None:
    assert parse_budget(text) == WRITTEN[text]
    assert str(WRITTEN[text]) == text


def test_read_as_people_write_it() -> None:
    wanted = Budget(keep_information=0.95, keep_min=0.1, keep_max=0.5)
    assert parse_budget(" information = 0.95 : 10% .. 0.5 ") == wanted


@pytest.mark.parametrize(
    "text",
    [
        "information=",
        "information=95%:",
        "information=95%:..",
        "information=95%:16",
        "information=95%:a..b",
        "info=95%",
        "information=most",
        "information=95%,min=16",
    ],
)
def test_what_is_not_a_share_of_the_information(text: str) -> None:
    with pytest.raises(BudgetError) as caught:
        parse_budget(text)
    assert str(caught.value) == (
        f"budget {text!r} is not a share of the information; write information=95%, or with "
        "bounds information=95%:16..50%, information=95%:16.. or information=95%:..50%."
    )


@pytest.mark.parametrize(
    ("given_as", "message"),
    [
        (
            {},
            "got none of keep_tokens, keep_ratio and keep_information; give exactly one, e.g. "
            "keep_tokens=128, keep_ratio=0.25 or keep_information=0.95.",
        ),
        (
            {"keep_ratio": 0.5, "keep_information": 0.9},
            "got both of keep_ratio and keep_information; give exactly one, e.g. "
            "keep_tokens=128, keep_ratio=0.25 or keep_information=0.95.",
        ),
        (
            {"keep_information": 95},
            "keep_information=95.0 is outside (0, 1]; write 0.95 for 95 %.",
        ),
        (
            {"keep_information": 0.0},
            "keep_information=0.0 is outside (0, 1]; write 0.95 for 95 %.",
        ),
        (
            {"keep_ratio": 0.5, "keep_min": 4},
            "keep_min=4 bounds what keep_information keeps, and the budget is keep_ratio=0.5; "
            "leave keep_min out, or use keep_information.",
        ),
        (
            {"keep_information": 0.9, "keep_min": 0},
            "keep_min=0 is neither a count of at least 1 nor a share in (0, 1]; write e.g. "
            "keep_min=16 or keep_min=0.1.",
        ),
        (
            {"keep_information": 0.9, "keep_max": 1.5},
            "keep_max=1.5 is neither a count of at least 1 nor a share in (0, 1]; write e.g. "
            "keep_max=16 or keep_max=0.1.",
        ),
        (
            {"keep_information": 0.9, "keep_min": 32, "keep_max": 16},
            "keep_min=32 is above keep_max=16; swap them.",
        ),
        (
            {"keep_information": 0.9, "keep_max": True},
            "keep_max=True is no integer or finite number; a count is 16, a share 0.1.",
        ),
    ],
)
def test_refused(given_as: dict[str, Any], message: str) -> None:
    with pytest.raises(BudgetError) as caught:
        Budget(**given_as)
    assert str(caught.value) == message


def test_the_number_of_tokens_does_not_say() -> None:
    with pytest.raises(BudgetError) as caught:
        WRITTEN["information=95%:..64"].count(196, image=3)
    assert str(caught.value) == (
        "the budget information=95%:..64 depends on what is in image 3, and how many visual "
        "tokens stay must be known here before they are; use keep_ratio or keep_tokens."
    )
    assert WRITTEN["information=95%:..64"].most(196) == 64
    assert WRITTEN["information=95%:..64"].most(36) == 36


def test_bounds_that_cross_in_an_image() -> None:
    budget = Budget(keep_information=0.9, keep_min=64, keep_max=0.25)
    assert budget.within(10, 400) == 64
    with pytest.raises(BudgetError) as caught:
        budget.within(10, 196, image=2)
    assert str(caught.value) == (
        "keep_min=64 is 64 and keep_max=0.25 is 49 of the 196 visual tokens of image 2; lower "
        "keep_min or raise keep_max."
    )


def test_all_of_the_information_is_every_token() -> None:
    budget = Budget(keep_information=1.0)
    assert not budget.needs_states
    assert budget.keeps_all
    assert budget.count(196) == 196
    bounded = Budget(keep_information=1.0, keep_max=0.5)
    assert not bounded.keeps_all
    assert bounded.count(196) == 98


bounds = st.none() | st.integers(1, 300) | st.floats(0.01, 1.0)


@settings(max_examples=50, deadline=None)
@given(
    share=st.floats(0.01, 1.0),
    low=bounds,
    high=bounds,
    wanted=st.integers(1, 196),
    num_tokens=st.integers(1, 196),
)
def test_within_its_bounds(share: float, low: Any, high: Any, wanted: int, num_tokens: int) -> None:
    try:
        budget = Budget(keep_information=share, keep_min=low, keep_max=high)
        found = budget.within(min(wanted, num_tokens), num_tokens)
    except BudgetError:
        assert low is not None
        assert high is not None
        return
    assert 1 <= found <= num_tokens
    if isinstance(low, int):
        assert found >= min(low, num_tokens)
    if isinstance(high, int):
        assert found <= high
    again = Budget(**json.loads(json.dumps(asdict(budget))))
    assert again == budget
    assert hash(again) == hash(budget)


def test_numbers_of_other_libraries() -> None:
    budget = Budget(keep_information=np.float32(0.5), keep_min=np.int64(4))
    assert budget == Budget(keep_information=0.5, keep_min=4)
    assert (type(budget.keep_information), type(budget.keep_min)) == (float, int)
