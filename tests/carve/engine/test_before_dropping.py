"""What could come out wrong is refused in a sentence, and only where tokens would be dropped."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from transformers.cache_utils import DynamicCache, DynamicLayer

import foveate
from foveate.carve.engine.feature_lengths import feature_lengths
from foveate.carve.engine.per_token import is_per_token
from foveate.carve.engine.residual_streams import ResidualStreams
from foveate.errors import UnsupportedModeError, UnsupportedModelError
from foveate.models import anatomy
from foveate.models.family import Row, first_layer_any
from foveate.models.layer_kinds import kind_of_layer
from foveate.models.masks import narrow_padding
from tests import tiny_kinds as kinds
from tests import tiny_vlm as tiny

HALF = foveate.TokenCarve(keep_ratio=0.5)
ALL = foveate.TokenCarve(keep_ratio=1.0)


def run_on(model: Any, inputs: dict[str, Any], method: foveate.Method, **settings: Any) -> Any:
    with foveate.Run(model, method), torch.no_grad():  # past the check of a twin
        return model(**kinds.given(inputs), **settings).logits


def refused(
    model: Any, inputs: dict[str, Any], error: type[Exception], match: str, **more: Any
) -> None:
    """With half of the tokens, but not with all of them."""
    with torch.no_grad():
        plain = model(**kinds.given(inputs), **settings_of(more)).logits
    assert torch.equal(run_on(model, inputs, ALL, **settings_of(more)), plain)
    with pytest.raises(error, match=match):
        run_on(model, inputs, HALF, **settings_of(more))


def settings_of(more: dict[str, Any]) -> dict[str, Any]:
    return {name: make() for name, make in more.items()}


class OwnLayer(DynamicLayer):
    """A cache layer of a kind that nobody knows."""


def own_cache() -> DynamicCache:
    cache = DynamicCache()
    cache.layers = [OwnLayer() for _ in range(5)]
    return cache


def test_unknown_cache_layers() -> None:
    model = tiny.build("llava")
    inputs = tiny.prompts(model, "llava", (1,))
    refused(model, inputs, UnsupportedModeError, "OwnLayer layers cannot be carved",
            past_key_values=own_cache, use_cache=lambda: True)  # fmt: skip


@pytest.mark.parametrize("use_cache", [True, False])
def test_unknown_layer_kinds(use_cache: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.build("llava")
    inputs = tiny.prompts(model, "llava", (1,))
    layer = model.base_model.language_model.layers[3]
    monkeypatch.setattr(layer, "block_type", "window_attention", raising=False)
    refused(model, inputs, UnsupportedModelError, r"layer 3 .* kind 'window_attention'",
            use_cache=lambda: use_cache)  # fmt: skip


def test_features_added_between_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that lets tokens go before the last layer where features are added."""
    row = Row(title="Granite 4 Vision", first_layer=first_layer_any)
    monkeypatch.setitem(anatomy.FAMILIES, "granite4_vision", row)
    model = kinds.build("granite4_vision")
    inputs = tiny.prompts(model, "granite4_vision", (1,))
    late = {"prune_layer": 4}
    run_on(model, inputs, foveate.TokenCarve(keep_ratio=1.0, **late))
    with pytest.raises(UnsupportedModelError, match=r"between layers 0 and 1.*first_layer is too"):
        run_on(model, inputs, foveate.TokenCarve(keep_ratio=0.5, **late))


def test_equal_copies_between_layers_are_nothing_added(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.build("llava")
    inputs = tiny.prompts(model, "llava", (1,))
    alike = run_on(model, inputs, HALF)
    layer = model.base_model.language_model.layers[1]
    handle = layer.register_forward_pre_hook(lambda module, args: (args[0].clone(), *args[1:]))
    assert torch.equal(run_on(model, inputs, HALF), alike)
    handle.remove()


def test_a_first_layer_of_other_tokens() -> None:
    """Tokens that stand in the decoder but not in the prompt."""
    model = tiny.build("llava")
    inputs = tiny.prompts(model, "llava", (1,))
    decoder = model.base_model.language_model

    def longer(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        embeds = kwargs["inputs_embeds"]
        more = {"inputs_embeds": torch.cat([embeds[:, :2], embeds], dim=1)}
        return args, {**kwargs, **more, "attention_mask": None, "position_ids": None}

    handle = decoder.register_forward_pre_hook(longer, with_kwargs=True)
    refused(model, inputs, UnsupportedModelError, "called with hidden states of shape")
    handle.remove()


def test_attention_that_passes_by_the_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.build("llava")
    inputs = tiny.prompts(model, "llava", (1,))
    attention = model.base_model.language_model.layers[1].self_attn

    def own(hidden_states: torch.Tensor, **kwargs: Any) -> tuple[torch.Tensor, None]:
        cache = kwargs.get("past_key_values")
        if cache is not None:
            empty = hidden_states.new_zeros(*hidden_states.shape[:2], 2, 12).transpose(1, 2)
            cache.update(empty, empty, 1)
        return hidden_states, None

    monkeypatch.setattr(attention, "forward", own)
    refused(model, inputs, UnsupportedModelError, "does not compute it through")
    run_on(model, inputs, foveate.DivPrune(keep_ratio=0.5))  # reads none


@pytest.mark.parametrize("generates", [True, False])
def test_features_without_a_placeholder(generates: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wrong id in the row: nothing would be compressed, and nobody told."""
    row = replace(anatomy.FAMILIES["llava"], visual_tokens={"image": "wrong_id"})
    monkeypatch.setitem(anatomy.FAMILIES, "llava", row)
    monkeypatch.setattr(anatomy, "_check_row", lambda *parts: None)  # it would be refused before
    model = tiny.build("llava")
    model.config.wrong_id = 7000
    inputs = tiny.prompts(model, "llava", (1,))
    text = tiny.prompts(model, "llava", (0,))
    with foveate.Run(model, HALF), torch.no_grad():
        with pytest.raises(UnsupportedModelError, match="none of its tokens is a placeholder"):
            model.generate(**inputs, max_new_tokens=2) if generates else model(**inputs)
        model(**text)  # the features were another call's


def test_places_that_layers_count_themselves() -> None:
    """Llama 4 scales queries by their place from floor_scale tokens on."""
    model = kinds.build("llama4")
    inputs = tiny.prompts(model, "llama4", (1,))
    run_on(model, inputs, HALF)
    for layer in model.base_model.language_model.model.layers:
        layer.self_attn.floor_scale = 16
    refused(model, inputs, UnsupportedModeError, r"counts itself.*shorter than 16")


@pytest.mark.parametrize("name", ["gemma4", "gemma3n"])
def test_full_early_caches_under_reused_keys(name: str) -> None:
    model = kinds.build(name)
    inputs = tiny.prompts(model, name, (1,))
    full = foveate.TokenCarve(keep_ratio=0.5, early_cache="full")
    with pytest.raises(UnsupportedModeError, match="use early_cache='compact'"):
        run_on(model, inputs, full, use_cache=True)
    run_on(model, inputs, full, use_cache=False)


def test_a_cut_where_the_last_token_alone_goes_on() -> None:
    model = kinds.build("gemma4")
    inputs = tiny.prompts(model, "gemma4", (1,))
    late = foveate.TokenCarve(keep_ratio=0.5, prune_layer=4)
    with foveate.attach(model, late), pytest.raises(UnsupportedModeError, match="runs on 1 of the"):
        model.generate(**kinds.given(inputs), max_new_tokens=2)
    with foveate.attach(model, foveate.TokenCarve(keep_ratio=1.0, prune_layer=4)):
        model.generate(**kinds.given(inputs), max_new_tokens=2)
    run_on(model, inputs, late)  # a plain forward gives all logits, so all tokens go on


def test_an_image_at_the_end_where_the_last_token_alone_goes_on() -> None:
    model = kinds.build("gemma4")
    inputs = tiny.prompts(model, "gemma4", (1,))
    end = int((inputs["input_ids"][0] == tiny.IMAGE_ID).nonzero()[-1]) + 1
    for key in ("input_ids", "attention_mask", "mm_token_type_ids"):
        inputs[key] = inputs[key][:, :end]
    first = foveate.FastV(keep_tokens=1, prune_layer=2, early_cache="compact")
    with foveate.attach(model, first) as run:
        with torch.no_grad():
            model(**kinds.given(inputs))
        entry = run.plans[0]
        assert entry.plan is not None
        last_stays = int(entry.plan.keep_idx[0, -1]) == entry.span.num_tokens - 1
        assert not last_stays, "the case needs a last token that is dropped"
        with pytest.raises(UnsupportedModeError, match="put text behind the image"):
            model.generate(**kinds.given(inputs), max_new_tokens=2)


def test_reading_attention_of_tokens_that_are_gone() -> None:
    """Between two steps no layer attends: there is nothing to read for the second."""
    method = foveate.Stack(
        stages=(
            foveate.TokenCarve(keep_ratio=0.6, prune_layer=3),
            foveate.TokenCarve(keep_ratio=0.3, prune_layer=4),
        )
    )
    with pytest.raises(UnsupportedModelError, match="no layer since the step at layer 3"):
        foveate.attach(kinds.build("qwen3_5"), method)
    foveate.attach(tiny.build("llava"), method).detach()


def test_no_attention_before_the_first_step() -> None:
    with pytest.raises(UnsupportedModelError, match="no layer before it has any"):
        foveate.attach(kinds.build("qwen3_5"), foveate.TokenCarve(keep_ratio=0.5, prune_layer=1))


def test_positions_of_more_than_the_new_tokens() -> None:
    """Qwen2-VL numbers a whole conversation where its second turn has an image, and fails."""
    model = tiny.build("qwen2_vl")
    inputs = tiny.prompts(model, "qwen2_vl", (1,))
    seen = inputs["input_ids"].shape[1]
    more = {**inputs, "attention_mask": torch.ones(1, 2 * seen, dtype=torch.long)}

    def turns() -> None:
        with torch.no_grad():
            cache = model(**inputs, use_cache=True).past_key_values
            model(**more, past_key_values=cache)

    with pytest.raises(RuntimeError, match="must match the size"):
        turns()
    method = foveate.DivPrune(keep_ratio=0.5)
    with foveate.attach(model, method), pytest.raises(UnsupportedModeError, match="new ones"):
        turns()


def test_integers_for_each_token() -> None:
    assert is_per_token("per_layer_input", torch.zeros(2, 5, 3), 2, 5)
    assert is_per_token("is_visual", torch.zeros(1, 5, dtype=torch.bool), 2, 5)
    assert not is_per_token("scale", torch.zeros(2, 4), 2, 5)
    assert not is_per_token("use_cache", True, 2, 5)
    with pytest.raises(UnsupportedModelError, match="called with places, integers"):
        is_per_token("places", torch.zeros(2, 5, dtype=torch.long), 2, 5)


def test_integers_for_each_token_reach_the_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.build("llava")
    inputs = tiny.prompts(model, "llava", (1,))
    refused(model, inputs, UnsupportedModelError, "called with places, integers",
            places=lambda: torch.zeros_like(inputs["input_ids"]))  # fmt: skip


@pytest.mark.parametrize("shape", [(2, 5, 6), (2, 5, 3, 6), (3, 2, 5, 6)])
def test_streams_there_and_back(shape: tuple[int, ...]) -> None:
    hidden = tiny.noise(*shape)
    streams = ResidualStreams(hidden, batch=2, length=5)
    streams.check()
    joined = streams.joined(hidden)
    assert joined.shape[:2] == (2, 5)
    assert streams.num_tokens(hidden) == 5
    assert torch.equal(streams.apart(joined, hidden), hidden)
    short = streams.apart(joined[:, [0, 3]], hidden)
    expected = hidden[:, :, [0, 3]] if shape[0] == 3 else hidden[:, [0, 3]]
    assert torch.equal(short, expected)


@pytest.mark.parametrize("shape", [(2, 4, 6), (10, 6), (5, 5, 5, 6)])
def test_streams_that_cannot_be_counted(shape: tuple[int, ...]) -> None:
    batch = 5 if shape[0] == 5 else 2
    with pytest.raises(UnsupportedModelError, match="can only drop tokens that it can count"):
        ResidualStreams(tiny.noise(*shape), batch=batch, length=5).check()


def test_padding_of_states() -> None:
    """Filler rows are no tokens, and neither is padding."""
    left = torch.tensor([[-1, 3, 5], [2, 3, 5]])
    mask = torch.tensor([[1, 1, 1, 0, 1, 1], [1, 1, 1, 1, 1, 1]])
    narrowed = narrow_padding(mask, left, past=0, has_empty=True)
    assert narrowed is not None
    assert narrowed.tolist() == [[0, 0, 1], [1, 1, 1]]
    alone = narrow_padding(None, left, past=0, has_empty=True)
    assert alone is not None
    assert alone.tolist() == [[0, 1, 1], [1, 1, 1]]
    assert narrow_padding(None, left[1:], past=0, has_empty=False) is None
    with pytest.raises(UnsupportedModeError, match="keeps a state got a 4-D mask"):
        narrow_padding(torch.zeros(2, 1, 6, 6), left, past=0, has_empty=True)


def test_kinds_of_layers() -> None:
    decoder = kinds.build("qwen3_5").base_model.language_model
    found = [kind_of_layer(decoder, i) for i in range(5)]
    assert found == list(decoder.config.layer_types)
    parts = anatomy.anatomy_of(kinds.build("qwen3_5"), with_explicit_mask=False)
    assert [parts.attention_of(i) is not None for i in range(5)] == [
        False,
        True,
        False,
        False,
        True,
    ]
    assert parts.attention_before(4) == 1


def test_lengths_of_features_of_unknown_form() -> None:
    with pytest.raises(UnsupportedModelError, match="cannot count their tokens"):
        feature_lengths(object())
