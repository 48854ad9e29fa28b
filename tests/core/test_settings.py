"""Plain values of settings: what numpy, torch and JSON hand over, and what is refused."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from foveate.core.budget import Budget, parse_budget
from foveate.core.settings import is_plain_kind, plain_setting
from foveate.errors import BudgetError, ConfigError

WHOLE = (int, np.int8, np.int64, np.uint16, np.array, torch.tensor)
REAL = (float, np.float16, np.float32, np.float64, np.longdouble, np.array, torch.tensor, Fraction)


@pytest.mark.parametrize(
    ("value", "kind", "plain"),
    [
        *((make(3), int, 3) for make in WHOLE),
        *((make(3), float, 3.0) for make in WHOLE),
        *((make(0.5), float, 0.5) for make in REAL),
        (torch.tensor(0.5, dtype=torch.bfloat16), float | None, 0.5),
        (None, float | None, None),
        (np.bool_(True), bool, True),
        (torch.tensor(False), bool, False),
        (np.str_("norm"), str, "norm"),
        (np.str_("a"), Literal["a", "b"], "a"),
        (np.int64(2), Literal[1, 2], 2),
        ([0, np.float32(0.5)], tuple[float, ...], (0.0, 0.5)),
        (np.array([1, 2]), tuple[int, ...], (1, 2)),
        (torch.tensor([[1.0], [2.0]]), tuple[tuple[float, ...], ...], ((1.0,), (2.0,))),
        ((1, "a"), tuple[int, str], (1, "a")),
        ((), tuple[float, ...], ()),
        (3, int | float, 3),
        (3.0, int | float, 3.0),
    ],
)
def test_what_becomes_plain(value: Any, kind: Any, plain: Any) -> None:
    found = plain_setting("x", value, kind, ConfigError)
    assert found == plain
    assert type(found) is type(plain)


@pytest.mark.parametrize(
    ("value", "kind", "sentence"),
    [
        (True, int, "x=True is no integer; write e.g. x=1."),
        (np.bool_(True), float, f"x={np.bool_(True)!r} is no finite number; write e.g. x=0.5."),
        (torch.tensor(True), int, "x=tensor(True) is no integer; write e.g. x=1."),
        (2.0, int, "x=2.0 is no integer; write e.g. x=1."),
        (np.float64(2), int | None, f"x={np.float64(2)!r} is no integer; write e.g. x=1."),
        ("2", int, "x='2' is no integer; write e.g. x=1."),
        (math.nan, float, "x=nan is no finite number; write e.g. x=0.5."),
        (math.inf, float | None, "x=inf is no finite number; write e.g. x=0.5."),
        (torch.tensor(math.nan), float, "x=tensor(nan) is no finite number; write e.g. x=0.5."),
        (10**400, float, f"x={10**400!r} is no finite number; write e.g. x=0.5."),
        (1j, float, "x=1j is no finite number; write e.g. x=0.5."),
        ([0.5], float, "x=[0.5] is no finite number; write e.g. x=0.5."),
        (np.array([1]), int, "x=array([1]) is no integer; write e.g. x=1."),
        (None, float, "x=None is no finite number; write e.g. x=0.5."),
        (1, bool, "x=1 is no truth value; write e.g. x=True."),
        (1, str, "x=1 is no text; write e.g. x='word'."),
        ("c", Literal["a", "b"], "x='c' is unknown; use 'a' or 'b'."),
        ("d", Literal["a", "b", "c"] | None, "x='d' is unknown; use one of 'a', 'b', 'c', None."),
        (True, Literal[1], "x=True is unknown; use 1."),
        ("ab", tuple[str, ...], "x='ab' is no tuple of texts; write e.g. x=('word',)."),
        ((0.5, math.nan), tuple[float, ...],
         "x=(0.5, nan) is no tuple of finite numbers; write e.g. x=(0.5,)."),
        ((1,), tuple[int, str], "x=(1,) is no tuple of integers and texts; "
         "write e.g. x=(1, 'word')."),
    ],
)  # fmt: skip
def test_what_is_refused(value: Any, kind: Any, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plain_setting("x", value, kind, ConfigError)
    assert str(caught.value) == sentence


def test_kinds_that_json_holds() -> None:
    for kind in (int, float | None, Literal["a", 1, None], tuple[tuple[int, ...], str], None):
        assert is_plain_kind(kind)
    for kind in (
        Any,
        list[int],
        dict[str, int],
        tuple,
        object,
        complex,
        int | set[int],
        torch.dtype,
    ):
        assert not is_plain_kind(kind)
    assert is_plain_kind(tuple[Budget, ...], Budget)
    assert not is_plain_kind(Literal[b"a"])


# --- budgets ---


@given(number=st.integers(1, 10**6), make=st.sampled_from(WHOLE[3:]) | st.just(np.int64))
def test_counts_of_any_library(number: int, make: Any) -> None:
    value = make(number % 60_000 + 1)
    expected = Budget(keep_tokens=number % 60_000 + 1)
    for budget in (Budget(keep_tokens=value), parse_budget(value)):
        assert budget == expected
        assert type(budget.keep_tokens) is int


@given(ratio=st.floats(0.0625, 1.0, width=16), make=st.sampled_from(REAL))
def test_shares_of_any_library(ratio: float, make: Any) -> None:
    budget = Budget(keep_ratio=make(ratio))
    assert budget == parse_budget(make(ratio))
    assert type(budget.keep_ratio) is float
    assert budget.keep_ratio == pytest.approx(ratio, rel=1e-6)


def test_one_and_the_whole() -> None:
    assert parse_budget(1) == parse_budget("1") == Budget(keep_tokens=1)
    assert parse_budget(1.0) == parse_budget("1.0") == Budget(keep_ratio=1.0)
    assert Budget(keep_ratio=1) == Budget(keep_ratio=1.0)


@pytest.mark.parametrize(
    ("keep", "sentence"),
    [
        (True, "keep=True is no integer or finite number; write 64 for a count, 0.25 or '25%'."),
        (math.nan, "keep=nan is no integer or finite number; write 64 for a count, 0.25 or '25%'."),
        ([1], "keep=[1] is no integer or finite number; write 64 for a count, 0.25 or '25%'."),
        (0, "keep_tokens=0 is below 1; keep at least 1 token."),
        (25.0, "keep_ratio=25.0 is outside (0, 1]; for a count use keep_tokens."),
        ("nan%", "keep_ratio=nan is no finite number; write e.g. keep_ratio=0.25."),
    ],
)
def test_budgets_that_cannot_be(keep: Any, sentence: str) -> None:
    with pytest.raises(BudgetError) as caught:
        parse_budget(keep)
    assert str(caught.value) == sentence


@pytest.mark.parametrize("settings", [{"keep_tokens": "4"}, {"keep_ratio": "0.5"},
                                      {"keep_ratio": True}, {"keep_tokens": 2.0}])  # fmt: skip
def test_budgets_of_the_wrong_kind(settings: dict[str, Any]) -> None:
    with pytest.raises(BudgetError, match=r"is no (integer|finite number)"):
        Budget(**settings)
