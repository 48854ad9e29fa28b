"""derive(model): what is read off equals what was written by hand, and the rest is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as tf
from torch import nn

from foveate.errors import UnsupportedModelError
from foveate.models.anatomy import anatomy_of
from foveate.models.derive import derive
from foveate.models.families import FAMILIES
from foveate.models.load import skeleton
from foveate.models.twin import build_twin, twin_config, typical_config
from tests import tiny_vlm as tiny

IMAGE = {"image": "image_token_id"}
BOTH = {"image": "image_token_id", "video": "video_token_id"}
# As they stood in the table before anything was derived: decoder, placeholders, first layer.
BY_HAND: dict[str, tuple[str, dict[str, str], int]] = {
    "llava": ("language_model", IMAGE, 0),
    "llava_next": ("language_model", IMAGE, 0),
    "llava_onevision": ("language_model", BOTH, 0),
    "qwen2_vl": ("language_model", BOTH, 0),
    "qwen2_5_vl": ("language_model", BOTH, 0),
    "qwen3_vl": ("language_model", BOTH, 2),
    "smolvlm": ("text_model", IMAGE, 0),
    "idefics3": ("text_model", IMAGE, 0),
    "internvl": ("language_model", IMAGE, 0),
    "paligemma": ("language_model", IMAGE, 0),
    "gemma3": ("language_model", IMAGE, 0),
    "mistral3": ("language_model", IMAGE, 0),
}


def twin_of(model_type: str) -> Any:
    return skeleton(twin_config(typical_config(model_type)))


def test_every_row_was_written_by_hand_once() -> None:
    assert set(BY_HAND) == set(FAMILIES) == set(tiny.FAMILIES)


@pytest.mark.parametrize("name", BY_HAND)
def test_derived_equals_written(name: str) -> None:
    model = tiny.build(name)
    family = derive(model)
    decoder, visual, first = BY_HAND[name]
    assert (family.decoder, dict(family.visual_tokens)) == (decoder, visual)
    assert family.first_layer(model.config) == first
    assert set(family.units) == set(visual)
    assert family.cut == "in_llm"


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_grids_are_found_by_their_sum(name: str) -> None:
    model = tiny.build(name)
    rule = derive(model).units["image"]
    inputs = tiny.FAMILIES[name].images(3)
    units = rule(model.config, inputs, [16, 12, 9])
    assert [(unit.num_tokens, unit.grid) for unit in units] == [
        (16, (4, 4)),
        (12, (2, 6)),
        (9, (3, 3)),
    ]
    # Grids that do not explain the tokens are not believed.
    units = rule(model.config, inputs, [15, 12, 9])
    assert [(unit.num_tokens, unit.grid) for unit in units] == [(15, None), (12, None), (9, (3, 3))]


@pytest.mark.parametrize(
    ("model_type", "decoder", "visual", "first"),
    [
        ("llama4", "language_model.model", IMAGE, 0),
        ("glm4v", "language_model", {"image": "image_token_id", "video": "image_token_id"}, 0),
        ("granite4_vision", "language_model", IMAGE, 3),
        ("granite_docling", "text_model", IMAGE, 2),
        ("qwen3_5", "language_model", BOTH, 0),
        ("chameleon", "", IMAGE, 0),
    ],
)
def test_families_without_a_row(
    model_type: str, decoder: str, visual: dict[str, str], first: int
) -> None:
    model = twin_of(model_type)
    family = derive(model)
    assert (family.decoder, dict(family.visual_tokens)) == (decoder, visual)
    assert family.first_layer(model.config) == first


@pytest.mark.parametrize(
    ("model_type", "why"),
    [
        ("git", "in front of its text"),
        ("mllama", "cross-attention"),
        ("florence2", "an encoder with a decoder"),
        ("mistral4", "no placeholder token"),
    ],
)
def test_a_wrong_guess_is_refused(model_type: str, why: str) -> None:
    with pytest.raises(UnsupportedModelError, match=why):
        derive(twin_of(model_type))


def test_a_decoder_outside_the_base_model_is_refused() -> None:
    model = tiny.build("llava")
    model.get_decoder = lambda: nn.Module()  # type: ignore[method-assign]
    with pytest.raises(UnsupportedModelError, match="no decoder with a list of layers"):
        derive(model)
    stranger = tiny.build("llava").model.language_model
    model.get_decoder = lambda: stranger
    with pytest.raises(UnsupportedModelError, match="not inside its base model"):
        derive(model)


def test_features_must_come_from_an_extractor() -> None:
    class Bare(tf.LlavaModel):
        get_image_features = None

    model = tiny.build("llava")
    model.model.__class__ = Bare
    with pytest.raises(UnsupportedModelError, match="has no get_image_features"):
        derive(model)


@pytest.mark.parametrize(
    ("model_type", "why"),
    [
        ("inkling2", "LinearAttentionAndFullAttentionLayer"),
        ("qwen4_exp", "an indexer"),
        ("minimax_m3_vl", "MiniMaxM3VLSparseCacheLayer"),
        ("unlimited_ocr", "KV cache"),
    ],
)
def test_sparse_and_windowed_caches_are_for_shorter_prompts_only(model_type: str, why: str) -> None:
    family = derive(twin_of(model_type))
    assert family.cut == "before_llm"
    assert why in family.why


def test_a_row_fills_in_over_what_is_derived() -> None:
    model = tiny.build("internvl")
    derived, family = derive(model), anatomy_of(model, with_explicit_mask=False).family
    assert (family.title, family.tiles) == ("InternVL", "runs")
    assert family.tower is not None
    assert derived.tower is None
    assert family.decoder == derived.decoder


def test_a_twin_is_small_and_leaves_the_random_state_alone() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    twin = build_twin(typical_config("qwen2_5_vl"))
    assert torch.equal(before, torch.random.get_rng_state())
    assert sum(p.numel() for p in twin.parameters()) < 1_000_000
    again = build_twin(typical_config("qwen2_5_vl"))
    for a, b in zip(twin.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_twin_keeps_the_choices_of_its_model() -> None:
    config = tf.LlavaConfig(
        text_config=tf.MistralConfig(
            sliding_window=None, tie_word_embeddings=True, num_hidden_layers=9
        ),
        vision_config=tf.SiglipVisionConfig(vision_use_head=False),
        vision_feature_select_strategy="full",
    )
    small = twin_config(config)
    assert (small.text_config.model_type, small.vision_config.model_type) == (
        "mistral",
        "siglip_vision_model",
    )
    assert small.vision_feature_select_strategy == "full"
    assert small.text_config.sliding_window is None
    assert small.text_config.tie_word_embeddings
    assert config.text_config.num_hidden_layers == 9, "the model's own configuration was changed"


def test_a_twin_may_have_more_layers_than_its_model() -> None:
    config = tf.Qwen2VLConfig(
        text_config={"num_hidden_layers": 3, "layer_types": ["full_attention"] * 3}
    )
    small = twin_config(config).text_config
    assert small.num_hidden_layers > 3
    assert small.layer_types == ["full_attention"] * small.num_hidden_layers


def test_a_twin_has_every_kind_of_layer() -> None:
    config = typical_config("qwen3_5")
    kinds = set(config.text_config.layer_types)
    assert len(kinds) > 1
    assert set(twin_config(config).text_config.layer_types) == kinds
