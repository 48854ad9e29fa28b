"""The gate: derived families are checked once before their first use, written ones are not."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import foveate
from foveate.carve.answerer import Answerer
from foveate.carve.check import before, findings, gate
from foveate.carve.check.check import check
from foveate.errors import UnsupportedModelError
from foveate.models.anatomy import anatomy_of
from foveate.models.families import FAMILIES
from foveate.models.family import Row
from foveate.models.twin import build_twin, typical_config
from tests import tiny_vlm as tiny

METHOD = foveate.TokenCarve(keep_ratio=0.5)


@pytest.fixture(autouse=True)
def checked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Types that the gate checked; nothing is known before, and the cache is the test's own."""
    done: list[str] = []

    def counted(config: Any, **settings: Any) -> Any:
        done.append(config.model_type)
        return check(config, **settings)

    monkeypatch.setattr(gate, "check", counted)
    monkeypatch.setattr(gate, "_known", {})
    monkeypatch.setattr(gate, "cache_file", lambda: tmp_path / "cache" / "twins.json")
    return done


def attach_once(model: Any) -> None:
    with foveate.attach(model, METHOD):
        pass


@pytest.fixture(scope="module")
def derived() -> Any:
    return build_twin(typical_config("aya_vision"))


def test_a_derived_family_is_checked_once(derived: Any, checked: list[str]) -> None:
    attach_once(derived)
    attach_once(derived)
    assert checked == ["aya_vision"]


def test_a_written_family_is_not(checked: list[str]) -> None:
    attach_once(tiny.build("llava"))
    assert checked == []


def test_a_written_family_is_on_another_transformers(
    checked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate.transformers, "__version__", "5.99.0")
    attach_once(tiny.build("llava"))
    assert checked == ["llava"]


def test_what_holds_is_kept_for_the_next_process(
    derived: Any, checked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    attach_once(derived)
    kept = json.loads(gate.cache_file().read_text())
    assert list(kept.values()) == [""]
    monkeypatch.setattr(gate, "_known", {})
    attach_once(derived)
    assert checked == ["aya_vision"]


def test_another_version_of_transformers_is_checked_anew(
    derived: Any, checked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    attach_once(derived)
    monkeypatch.setattr(gate.transformers, "__version__", "5.99.0")
    attach_once(derived)
    assert checked == ["aya_vision"] * 2


@pytest.mark.parametrize("content", ["", "[]", '{"a": 1}', "{"])
def test_a_broken_cache_is_no_cache(derived: Any, checked: list[str], content: str) -> None:
    gate.cache_file().parent.mkdir()
    gate.cache_file().write_text(content)
    attach_once(derived)
    assert checked == ["aya_vision"]


def test_a_folder_that_cannot_be_written_is_fine(derived: Any, checked: list[str]) -> None:
    gate.cache_file().parent.write_text("a file where the folder should be")
    attach_once(derived)
    assert checked == ["aya_vision"]


def test_a_wrong_row_closes_the_door(checked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES, "qwen3_vl", Row(title="wrong", first_layer=lambda config: 0))
    model = tiny.build("qwen3_vl")
    for _ in range(2):
        with pytest.raises(UnsupportedModelError, match="was never tested"):
            foveate.attach(model, METHOD)
    assert checked == ["qwen3_vl"]
    assert not gate.cache_file().exists() or json.loads(gate.cache_file().read_text()) == {}


def test_another_first_layer_is_checked_anew(
    checked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What held of a derived family says nothing of a row that differs in the first layer alone."""
    model = build_twin(typical_config("qwen3_vl_moe"))
    attach_once(model)
    row = Row(title=anatomy_of(model, with_explicit_mask=False).family.title)
    monkeypatch.setitem(FAMILIES, "qwen3_vl_moe", replace(row, first_layer=lambda config: 0))
    with pytest.raises(UnsupportedModelError, match="injected features"):
        attach_once(model)
    assert checked == ["qwen3_vl_moe"] * 2


def test_a_cache_of_another_kind_takes_shorter_prompts(checked: list[str]) -> None:
    """Its twin is checked for that alone; a method that acts later hears why."""
    model = build_twin(typical_config("inkling2"), "eager")
    with pytest.raises(UnsupportedModelError, match="before its language model only"):
        foveate.attach(model, METHOD)
    run = foveate.attach(model, foveate.DivPrune(keep_ratio=0.5))
    assert run.cut == "before_llm"
    run.detach()
    assert checked == ["inkling2"]


def test_a_shorter_prompt_that_does_not_hold_closes_the_door(
    checked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The slow path is made wrong: it closes the gaps between positions."""
    wrong = functools.partial(before.before_logits, keeps_positions=False)
    monkeypatch.setattr(findings, "before_logits", wrong)
    model = build_twin(typical_config("minimax_m3_vl"))
    with pytest.raises(UnsupportedModelError, match="before the LLM: one row"):
        foveate.attach(model, foveate.DivPrune(keep_ratio=0.5))
    assert checked == ["minimax_m3_vl"]


def test_answerers_pass_the_gate_too(derived: Any, checked: list[str]) -> None:
    vlm = foveate.load_vlm("embedded")
    Answerer(vlm, METHOD)
    assert checked == []
    stranger = type(vlm)(name="stranger", model=derived, processor=vlm.processor)
    Answerer(stranger, METHOD)
    assert checked == ["aya_vision"]
