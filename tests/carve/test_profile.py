"""Profiles: what is written is what is read, of another model it is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import foveate
from foveate.carve.profile import ModelId, Profile, load_profile
from foveate.carve.registry import all_methods
from foveate.carve.spec import parse_method
from foveate.core.budget import Budget
from foveate.errors import InputError, MethodError
from foveate.toml_file import read_toml, toml_lines

MODEL = ModelId(name="a model", type="llava", weights="0123456789abcdef")
COMPOSED = (
    "divprune:50%+tokencarve(attention_weight=0.3)",
    "text-share(divprune(prune_layer=1), share=0.4, relevance=similarity)",
    "two-stage(first=mmtok, second=fastv, depth=0.5)",
    "foveacarve(depths=(0.0, 0.5), foresight=False)",
    "text-share(fastv, share=0.2):50%+fastv(prune_layer=5)",
)


def profile_of(method: foveate.Method) -> Profile:
    return Profile(
        method=method,
        model=MODEL,
        evidence={"max_loss": 0.01, "images": 300, "data": 'a "b" \\ \n \x07 ü', "safe": True},
        versions={"foveate": "1"},
    )


def plain_methods() -> list[str]:
    """Every registered method that a name and a budget make."""
    found = []
    for name in all_methods():
        try:
            parse_method(name, Budget(keep_ratio=0.5))
        except MethodError:
            continue
        found.append(name)
    return found


@pytest.mark.parametrize("text", [*plain_methods(), *COMPOSED])
@pytest.mark.parametrize(
    "budget",
    [Budget(keep_ratio=0.25), Budget(keep_tokens=7), Budget(keep_information=0.9, keep_min=4)],
    ids=str,
)
def test_every_method_comes_back(text: str, budget: Budget, tmp_path: Path) -> None:
    try:
        method = parse_method(text, budget)
    except foveate.FoveateError:
        pytest.skip("it has no such budget")
    profile = profile_of(method)
    profile.save(tmp_path / "profile.toml")
    again = load_profile(tmp_path / "profile.toml")
    assert again == profile
    assert again.method.to_dict() == method.to_dict()


def test_all_registered_methods_are_among_them() -> None:
    made_of_others = {"stack", "text-share", "two-stage"}
    assert set(all_methods()) - made_of_others - {"pixelprune"} <= set(plain_methods())


def test_a_method_that_keeps_what_it_keeps(tmp_path: Path) -> None:
    profile = profile_of(foveate.method("pixelprune", threshold=0.1))
    profile.save(tmp_path / "profile.toml")
    assert load_profile(tmp_path / "profile.toml") == profile


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=8),
        st.recursive(
            st.text(max_size=20) | st.integers(-9, 9) | st.booleans() | st.floats(-1e6, 1e6),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.text(max_size=4), inner, max_size=3)
            ),
            max_leaves=6,
        ),
        max_size=4,
    )
)
@settings(max_examples=60, deadline=None)
def test_toml_comes_back(tmp_path_factory: pytest.TempPathFactory, values: dict[str, Any]) -> None:
    if _has_mixed_lists(values):
        return
    path = tmp_path_factory.mktemp("toml") / "a.toml"
    path.write_text("\n".join(toml_lines(values)) + "\n", encoding="utf-8", newline="\n")
    assert read_toml(path, what="file") == values


def _has_mixed_lists(value: Any) -> bool:
    """Lists with tables among other things, or in lists: no setting is like that."""
    if isinstance(value, dict):
        return any(map(_has_mixed_lists, value.values()))
    if not isinstance(value, list):
        return False
    tables = [isinstance(item, dict) for item in value]
    nested = any(isinstance(item, list) and any(isinstance(i, (dict, list)) for i in item)
                 for item in value)  # fmt: skip
    return nested or (any(tables) and not all(tables)) or any(map(_has_mixed_lists, value))


def test_attach_takes_a_profile_of_this_model_only(tmp_path: Path) -> None:
    vlm = foveate.load_vlm("embedded")
    method = foveate.DivPrune(keep_tokens=10)
    model = ModelId(name=vlm.name, type="llava", weights=vlm.weights)
    with foveate.attach(vlm.model, Profile(method=method, model=model)) as run:
        assert run.method == method
    with pytest.raises(InputError, match="'a model' with the weights '0123456789abcdef', and this"):
        foveate.attach(vlm.model, profile_of(method))
    other = ModelId(name="b", type="qwen2_vl", weights=vlm.weights)
    with pytest.raises(InputError, match="'qwen2_vl', and this one is of type 'llava'; use it"):
        foveate.attach(vlm.model, Profile(method=method, model=other))
    with pytest.raises(InputError, match="weights of unknown origin"):
        profile_of(method).check_model("llava", "")
    with pytest.raises(MethodError, match="got keep='25%' beside the method"):
        foveate.attach(vlm.model, Profile(method=method, model=model), keep="25%")
