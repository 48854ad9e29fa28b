"""The "foveate" entry of --additional-config: what it says, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

import foveate
from foveate.core.budget import Budget
from foveate.errors import BudgetError, ConfigError, FoveateError, MethodError
from foveate.vllm.settings import method_of, servable_methods, to_settings

ELSE = (
    "use one of apet, divprune, evs, foveacarve, hiprune, holov, noop, pooling, random, scope, "
    "tokencarve, uniform, vidcom2, visionzip, vispruner, or this method in transformers "
    "(`foveate run`)."
)


@pytest.mark.parametrize("config", [None, {}, {"other": {"foveate": 1}}, "foveate"])
def test_no_entry_is_no_method(config: Any) -> None:
    assert method_of(config) is None


def test_tokencarve_acts_behind_the_tower_unasked() -> None:
    assert method_of({"foveate": {"keep_ratio": 0.25}, "other": 1}) == foveate.TokenCarve(
        keep_ratio=0.25, where="encoder", prune_layer=0
    )


def test_settings_of_a_method_go_in_brackets() -> None:
    entry = {"method": "visionzip(contextual_fraction=0.5)", "keep_tokens": 64}
    assert method_of({"foveate": entry}) == foveate.VisionZip(
        keep_tokens=64, contextual_fraction=0.5, prune_layer=0
    )


@pytest.mark.parametrize("name", servable_methods())
def test_every_servable_method_can_be_written_and_read(name: str) -> None:
    method = method_of(to_settings(name, Budget(keep_ratio=0.5)))
    assert method is not None
    assert method.name == name
    assert method.prune_layer == 0


@pytest.mark.parametrize(
    ("entry", "kind", "text"),
    [
        (
            0.25,
            ConfigError,
            '"foveate": 0.25 in --additional-config is no object; write '
            '{"foveate": {"method": "tokencarve", "keep_ratio": 0.25}}.',
        ),
        (
            {"keep": 0.25},
            ConfigError,
            "\"foveate\" in --additional-config has no setting 'keep'; it has method, keep_ratio, "
            "keep_tokens, ages, age_step, alone. Settings of a method go in brackets behind its "
            'name, e.g. "method": "tokencarve(attention_weight=0.3)".',
        ),
        (
            {"method": 3, "keep_ratio": 0.25},
            ConfigError,
            '"method": 3 is no text; write e.g. "tokencarve".',
        ),
        (
            {"method": "tokencarve"},
            BudgetError,
            '"foveate" in --additional-config has no budget; give keep_ratio or keep_tokens, e.g. '
            '{"foveate": {"method": "tokencarve", "keep_ratio": 0.25}}.',
        ),
        (
            {"method": "divprune", "keep_information": 0.95, "keep_max": 64},
            BudgetError,
            "the budget information=95%:..64 depends on what is in an image, and vLLM reserves a "
            "place for each token of it before the image is looked at; use keep_ratio or "
            "keep_tokens, or this budget in transformers (`foveate run`).",
        ),
        (
            {"method": "visionzip(sizes=log)", "keep_ratio": 0.25},
            MethodError,
            "visionzip: sizes='log' adds log(size) to attention logits, which vLLM's kernels "
            "cannot; use sizes='ignore', or this method in transformers (`foveate run`).",
        ),
        (
            {"method": "tokencarve(text_share=0.3)", "keep_ratio": 0.25},
            MethodError,
            "tokencarve has no setting 'text_share'; wrap the method, text-share(tokencarve, "
            "share=0.3), or foveate.TextShare(inner=...).",
        ),
        (
            {"method": "fastv", "keep_ratio": 0.25},
            MethodError,
            "fastv reads the attention of a decoder layer, and in vLLM it decides before there is "
            f"any; {ELSE}",
        ),
        (
            {"method": "mmtok", "keep_ratio": 0.25},
            MethodError,
            "mmtok reads the text of the prompt, and in vLLM it decides before there is any; "
            f"{ELSE}",
        ),
        (
            {"method": "divprune(prune_layer=3)", "keep_ratio": 0.25},
            MethodError,
            "divprune is to cut before decoder layer 3, and vLLM's KV cache has one length for all "
            f"layers; {ELSE}",
        ),
        (
            {"method": "pyramiddrop", "keep_ratio": 0.25},
            MethodError,
            "pyramiddrop cuts between decoder layers, and vLLM's KV cache has one length for all "
            f"of them; {ELSE}",
        ),
        (
            {"method": "tome", "keep_ratio": 0.25},
            MethodError,
            f"tome acts inside the vision tower, which is vLLM's own; {ELSE}",
        ),
        (
            {"method": "text-share(divprune, share=0)", "keep_ratio": 0.25},
            MethodError,
            "text-share reads the text of the prompt, and in vLLM it decides before there is any; "
            f"{ELSE}",
        ),
        (
            {"method": "divprune:50%+uniform", "keep_ratio": 0.25},
            MethodError,
            f"stack cuts in several places, and vLLM lets a plugin cut in one; {ELSE}",
        ),
    ],
)
def test_what_cannot_be(entry: Any, kind: type[FoveateError], text: str) -> None:
    with pytest.raises(kind) as caught:
        method_of({"foveate": entry})
    assert str(caught.value) == text


def test_foveacarve_is_its_blind_step() -> None:
    found = method_of({"foveate": {"method": "foveacarve", "keep_ratio": 0.25}})
    assert found == foveate.FoveaCarve(keep_ratio=0.25, where="encoder", prune_layer=0)
    with pytest.raises(MethodError, match="foveacarve cuts between decoder layers"):
        method_of({"foveate": {"method": "foveacarve(where=llm)", "keep_ratio": 0.25}})


def test_tokencarve_inside_the_decoder_is_refused() -> None:
    with pytest.raises(MethodError, match="tokencarve reads the attention of a decoder layer"):
        method_of({"foveate": {"method": "tokencarve(where=llm)", "keep_ratio": 0.25}})
