"""The check of a twin: it holds where foveate is right, and it can fail."""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest
import torch

import foveate
from foveate.carve.check import before, findings
from foveate.carve.check.check import check
from foveate.carve.check.known import listed, zoo_types
from foveate.carve.check.masked import masked_logits
from foveate.carve.check.prompts import Prompts
from foveate.carve.check.result import Checked
from foveate.carve.check.short import short_logits
from foveate.carve.check.zoo import check_type
from foveate.errors import UnsupportedModelError
from foveate.models.anatomy import anatomy_of
from foveate.models.families import FAMILIES
from foveate.models.family import Family, Row
from foveate.models.twin import build_twin, typical_config


def prompts_of(model_type: str, kernel: str = "sdpa") -> Prompts:
    return Prompts(
        anatomy_of(build_twin(typical_config(model_type), kernel), with_explicit_mask=False)
    )


@pytest.mark.parametrize("model_type", ["llava", "qwen2_vl", "aya_vision", "video_llama_3"])
def test_what_works_is_said(model_type: str) -> None:
    found = check_type(model_type)
    assert found.refusal == ""
    assert {name: why for name, why in found.findings.items() if why} == {}
    assert found.in_llm
    assert found.before_llm
    assert found.batches
    assert found.kernels == ("sdpa", "eager")
    assert found.given_features == ""
    assert found.video is (True if model_type in ("qwen2_vl", "video_llama_3") else None)
    assert Checked.from_dict(found.to_dict()) == found


@pytest.mark.parametrize("model_type", ["minimax_m3_vl", "inkling2"])
def test_a_cut_before_the_decoder_is_what_others_have(model_type: str) -> None:
    found = check_type(model_type)
    assert not found.in_llm
    assert found.before_llm
    assert found.batches
    assert found.summary == f"before the language model only: {found.refusal}"
    assert Checked.from_dict(found.to_dict()) == found


def test_a_wrong_shorter_prompt_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = functools.partial(before.before_logits, keeps_positions=False)
    monkeypatch.setattr(findings, "before_logits", wrong)
    found = check_type("llava")
    assert found.in_llm
    assert found.before_llm is False
    assert "differ from the slow path" in found.findings["before the LLM: one row"]


def test_one_kernel_is_enough_for_models_that_have_one() -> None:
    found = check_type("got_ocr2", thorough=False)
    assert found.in_llm
    assert found.kernels == ("eager",)
    assert "scaled_dot_product" in found.findings["built (sdpa)"]


@pytest.mark.parametrize(
    ("model_type", "why"), [("mllama", "cross-attention"), ("inkling2", "in the KV cache")]
)
def test_a_refusal_is_a_result(model_type: str, why: str) -> None:
    found = check_type(model_type)
    assert not found.in_llm
    assert why in found.refusal


def test_the_slow_paths_agree_where_both_mean_something() -> None:
    prompts = prompts_of("llava")
    inputs = prompts.batch((1,))
    length = inputs["input_ids"].shape[1]
    with foveate.attach(prompts.model, foveate.TokenCarve(keep_ratio=0.4)) as run:
        out = prompts.generate(inputs)
    longer = prompts.longer(inputs, out.sequences[:, :-1])
    arguments = (
        prompts.model, prompts.anatomy.decoder, longer, findings._images(run), run.prune_layer,
        length,
    )  # fmt: skip
    masked, short = masked_logits(*arguments)[:, -5:], short_logits(*arguments)[:, -5:]
    assert torch.allclose(masked, short, atol=1e-4)


@pytest.mark.parametrize("method", ["unmerged", "early"])
def test_the_slow_path_can_fail(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A carving that differs from what its plan says, by a little, is found."""
    prompts = prompts_of("llava")
    findings.equals_slow_path(prompts, (1,))
    images = findings._images

    def other(run: foveate.Run) -> list[findings.Image]:
        told = images(run)
        if method == "unmerged":
            none = torch.empty(0, dtype=torch.long)
            return [(row, tokens, kept, none, none) for row, tokens, kept, _, _ in told]
        return [(row, tokens, kept[:-1], src, dst) for row, tokens, kept, src, dst in told]

    monkeypatch.setattr(findings, "_images", other)
    with pytest.raises(findings.BrokenError, match="differ from the slow path"):
        findings.equals_slow_path(prompts, (1,))


def test_a_check_that_could_not_fail_is_no_check(monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = prompts_of("llava")
    monkeypatch.setattr(findings, "GAP", 1e9)
    with pytest.raises(findings.BrokenError, match="from the untouched model"):
        findings.equals_slow_path(prompts, (1,))


class WithoutUnits(Row):
    """A row that leaves out what one image is, and takes it from nowhere."""

    def over(self, derived: Family) -> Family:
        return replace(super().over(derived), units={})


# What a wrong row of a type would say, and the check that finds it.
WRONG: dict[str, tuple[str, Row]] = {
    "decoder": ("llava", Row(title="wrong", decoder="vision_tower.encoder")),
    "decoder that is none": ("llava", Row(title="wrong", decoder="multi_modal_projector")),
    "placeholder": ("llava", Row(title="wrong", visual_tokens={"image": "bos_token_id"})),
    "doubled id": (
        "qwen2_vl",
        Row(title="wrong", visual_tokens={"image": "image_token_id", "video": "image_token_id"}),
    ),
    "units": ("llava", WithoutUnits(title="wrong")),
    "first layer": ("qwen3_vl", Row(title="wrong", first_layer=lambda config: 0)),
}


@pytest.mark.parametrize("what", WRONG)
def test_planted_wrong_rows_are_found(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, row = WRONG[what]
    monkeypatch.setitem(FAMILIES, name, row)
    found = check(typical_config(name), kernels=("sdpa",), thorough=False)
    assert not found.in_llm
    assert found.refusal
    with pytest.raises(UnsupportedModelError):
        foveate.attach(build_twin(typical_config(name), "sdpa"), "tokencarve", keep="40%")


def test_a_row_that_only_names_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES, "llava", replace(FAMILIES["llava"], title="another"))
    assert check(typical_config("llava"), kernels=("sdpa",), thorough=False).in_llm


def test_the_list_has_every_type_of_the_installed_library() -> None:
    assert [one.model_type for one in listed()] == zoo_types()
    assert all(one.in_llm or one.refusal for one in listed())
