"""What defining a method's class does, and that every method's settings are plain and are JSON."""

from __future__ import annotations

import dataclasses
import json
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

import foveate
from foveate.carve.definition import kinds
from foveate.carve.frame_method import FrameMethod
from foveate.carve.method import METHODS, Method
from foveate.carve.methods.uniform import UniformGrid
from foveate.carve.registry import origin
from foveate.core.budget import BUDGET
from foveate.errors import BudgetError, MethodError

# --- settings of every method ---

whole = st.integers(0, 100)
real = st.floats(0, 1, width=16)
as_whole = st.sampled_from((int, np.int64, np.uint8, np.array, torch.tensor))
as_real = st.sampled_from((float, np.float32, np.float64, np.array, torch.tensor))


def values(kind: Any) -> st.SearchStrategy[Any]:
    """Values of an annotation, as any library hands them over."""
    args = get_args(kind)
    if get_origin(kind) is Literal:
        return st.sampled_from(args)
    if get_origin(kind) is tuple:
        several = st.sets(real, max_size=3).map(sorted)
        return several | several.map(tuple) | several.map(np.array) | several.map(torch.tensor)
    if kind is bool:
        return st.sampled_from((True, False, np.True_, np.False_))
    if kind is int:
        return st.builds(lambda make, number: make(number), as_whole, whole)
    if kind is float:
        one = st.builds(lambda make, number: make(number), as_real, real)
        return one | st.sampled_from((0, 1))
    if kind is str:  # a method inside another
        return st.sampled_from(("divprune", "fastv", "scope"))
    assert type(None) in args, kind
    return st.none() | values(next(arm for arm in args if arm is not type(None)))


@st.composite
def methods(draw: st.DrawFn, name: str) -> Method:
    cls = METHODS[name]
    budget = draw(st.sampled_from(("keep_tokens", "keep_ratio", "keep_information")))
    settings: dict[str, Any] = {}
    for f in dataclasses.fields(cls):
        if f.name == budget:
            settings[budget] = draw(values(int if budget == "keep_tokens" else float))
        elif f.name in ("keep_min", "keep_max") and budget == "keep_information":
            settings[f.name] = draw(st.none() | st.integers(1, 9) | st.floats(0.1, 1.0))
    try:
        method = cls(**settings)
    except (MethodError, BudgetError):  # a budget out of range
        assume(False)
        raise
    # A setting that is refused is left out, not the whole draw: of a method with ten settings
    # hardly any draw would have all of them in range and going together.
    for f in dataclasses.fields(cls):
        if f.name not in BUDGET and draw(st.booleans()):
            setting = {f.name: draw(values(kinds(cls)[f.name]))}
            with suppress(MethodError, BudgetError):
                method = cls(**settings | setting)
                settings |= setting
    return method


def is_plain(value: Any) -> bool:
    if type(value) is tuple:
        return all(map(is_plain, value))
    return value is None or type(value) in (int, float, str, bool)


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"stack", "text-share", "pixelprune"}))
@given(data=st.data())
def test_settings_are_plain_and_json(name: str, data: st.DataObject) -> None:
    method = data.draw(methods(name))
    for f in dataclasses.fields(method):
        assert is_plain(getattr(method, f.name)), f.name
    text = json.dumps(method.to_dict(), allow_nan=False)
    again = type(method).from_dict(json.loads(text))
    assert again == method == foveate.method(**json.loads(text))
    assert hash(again) == hash(method)
    assert str(again) == str(method)
    assert json.dumps(again.to_dict()) == text


@given(data=st.data())
def test_stacks_are_plain_and_json(data: st.DataObject) -> None:
    names = st.sampled_from(sorted(set(METHODS) - {"stack", "text-share", "noop", "pixelprune"}))
    first = [n for n, cls in METHODS.items() if issubclass(cls, FrameMethod)]
    behind = names.filter(lambda n: METHODS[n].where != "vision_tower" and n not in first)
    # One stage of any settings: of several hardly any draw would be in all of their ranges.
    stages = [data.draw(methods(data.draw(names)))]
    stages += [
        METHODS[data.draw(behind)](keep_ratio=0.5) for _ in range(data.draw(st.integers(1, 2)))
    ]
    stack = foveate.Stack(stages=stages)  # type: ignore[arg-type]
    assert stack.stages == tuple(stages)
    text = json.dumps(stack.to_dict(), allow_nan=False)
    assert foveate.Stack.from_dict(json.loads(text)) == stack
    assert foveate.method(**json.loads(text)) == stack


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"stack", "text-share"}))
def test_no_setting_takes_a_value_of_another_kind(name: str) -> None:
    cls = METHODS[name]
    for f in dataclasses.fields(cls):
        for wrong in (float("nan"), float("inf"), object(), np.array(["a"]), {"a": 1}, [None]):
            settings = {"keep_tokens": 4, f.name: wrong}
            with pytest.raises((MethodError, BudgetError), match=rf"^{f.name}=.*; (use|write|for)"):
                cls(**settings)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"stages": 3}, "stages=3 is no tuple of methods"),
        ({"stages": ("fastv", "tome")}, r"stages=\('fastv', 'tome'\) is no tuple of methods"),
        ({"stages": [{"keep_tokens": 3}, {}]}, "is no tuple of methods"),
        ({"stages": [{"name": "nerm"}, {"name": "fastv"}]}, "unknown method 'nerm'"),
        ({"stages": [{"name": 3}, {"name": "fastv"}]}, "got 3 as a method's name"),
    ],
)
def test_stages_that_are_none(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(MethodError, match=words):
        foveate.Stack.from_dict(settings)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("prune_layer", 3), ("early_cache", "compact"), ("positions", "renumbered")],
)
def test_what_is_made_of_methods_has_no_settings_of_theirs(setting: str, value: Any) -> None:
    stages = (foveate.DivPrune(keep_ratio=0.5), foveate.FastV(keep_tokens=9, prune_layer=4))
    with pytest.raises(MethodError, match=f"stack has no setting '{setting}'; it has"):
        foveate.Stack(stages=stages, **{setting: value})
    with pytest.raises(MethodError, match=f"text-share has no setting '{setting}'; it has"):
        foveate.TextShare(inner=stages[1], **{setting: value})


@pytest.mark.parametrize("cls", [foveate.Stack, foveate.TextShare])
def test_no_setting_of_all_methods_but_the_budget_is_theirs(cls: type[Any]) -> None:
    own = {f.name for f in dataclasses.fields(cls) if f.init}
    assert own & {f.name for f in dataclasses.fields(foveate.Method)} == set(BUDGET)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: foveate.PyramidDrop(keep_tokens=4, stages=-1), "stages=-1 is below 1"),
        (lambda: foveate.FoveaCarve(keep_tokens=4, blur=-1), "blur=-1.0 must not"),
        (lambda: foveate.RandomTokens(keep_tokens=4, seed=10**20), "beyond what generators take"),
    ],
)
def test_ranges_that_were_found_out_late(make: Any, words: str) -> None:
    with pytest.raises(MethodError, match=words):
        make()


# --- definition ---


def define(name: str | None, base: type = UniformGrid, **body: Any) -> type[Any]:
    body = {**body, "__module__": __name__}
    made = type("Made", (base,), {**body, **({"name": name} if name else {})})
    return dataclass(frozen=True, kw_only=True)(made)


@pytest.mark.usefixtures("own_methods")
def test_a_class_registers_itself_and_replaces_itself() -> None:
    first = define("made")
    assert METHODS["made"] is first
    second = define("made")
    assert METHODS["made"] is second
    address = f"{__name__}:Made"
    assert second.reference() == address
    assert origin(second) == address
    assert second(keep_tokens=3).to_dict()["name"] == address
    assert second.from_dict({"name": "made", "keep_tokens": 3}) == second(keep_tokens=3)
    assert foveate.method("made", keep_tokens=3) == second(keep_tokens=3)


@pytest.mark.usefixtures("own_methods")
@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("fastv", f"{__name__}.Made has the name 'fastv', which foveate.carve.methods.fastv.FastV "
                  "has; use another."),
        ("a b", f"{__name__}.Made has name='a b', which cannot be typed behind --method; use "
                "letters, digits, '_' and '-', a letter first."),
        ("a:b", f"{__name__}.Made has name='a:b', which cannot be typed behind --method; use "
                "letters, digits, '_' and '-', a letter first."),
    ],
)  # fmt: skip
def test_names_that_cannot_be(name: str, sentence: str) -> None:
    before = dict(METHODS)
    with pytest.raises(MethodError) as caught:
        define(name)
    assert str(caught.value) == sentence
    assert before == METHODS


@pytest.mark.usefixtures("own_methods")
def test_bases_stay_out() -> None:
    before = dict(METHODS)
    define(None)
    define("unfinished", Method)
    assert before == METHODS
    define("finished", Method, plan=UniformGrid.plan)
    assert set(METHODS) - set(before) == {"finished"}


@dataclass(frozen=True, kw_only=True)
class Strict(UniformGrid):
    """Checks before its bases do, and has every kind of setting."""

    count: int = 3
    share: float = 0.5
    mode: Literal["a", "b"] = "a"
    sharp: bool = False
    places: tuple[int, ...] = ()
    limit: float | None = None
    label: str = "x"

    def __post_init__(self) -> None:
        if self.count < 1 or self.share > 1:
            raise MethodError("out of range")


def test_a_check_sees_plain_settings_whatever_it_calls() -> None:
    made = Strict(
        keep_ratio=np.float32(0.5), count=torch.tensor(4), share=np.float64(0.25), places=[1, 2],
        sharp=np.bool_(True), limit=3, label=np.str_("y"), mode=np.str_("b"),
    )  # type: ignore[arg-type]  # fmt: skip
    assert json.loads(json.dumps(made.to_dict()))["places"] == [1, 2]
    assert made == Strict(
        keep_ratio=0.5, count=4, share=0.25, places=(1, 2), sharp=True, limit=3.0, label="y",
        mode="b",
    )  # fmt: skip
    with pytest.raises(MethodError, match=r"count='few' is no integer; write e.g. count=3"):
        Strict(keep_tokens=1, count="few")  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class NotJson(UniformGrid):
    weights: torch.Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Demanding(UniformGrid):
    width: int


def test_settings_that_json_cannot_hold() -> None:
    with pytest.raises(MethodError, match=r"'weights' is torch.Tensor \| None, which JSON cannot"):
        NotJson(keep_tokens=3)


def test_settings_without_a_default() -> None:
    assert Demanding.from_dict({"keep_tokens": 3, "width": 4}).width == 4
    with pytest.raises(MethodError, match="needs the setting 'width'; give it"):
        Demanding.from_dict({"keep_tokens": 3})
