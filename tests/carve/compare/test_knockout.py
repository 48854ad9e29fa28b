"""The layer in which a question reads, on a model that can only read in one."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from foveate.carve.compare.knockout import look_depth, reading_curve
from foveate.errors import InputError
from tests import tiny_vlm as tiny


def blind_but_in(layer: int, attention: str = "sdpa") -> Any:
    """A model whose attention adds nothing in all layers but one."""
    model = tiny.build("llava", attention)
    with torch.no_grad():
        for index, each in enumerate(model.base_model.language_model.layers):
            if index != layer:
                each.self_attn.o_proj.weight.zero_()
    return model


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("layer", [1, 3])
def test_it_finds_the_layer(layer: int, attention: str) -> None:
    model = blind_but_in(layer, attention)
    curve = reading_curve(model, [tiny.prompts(model, "llava", (1, 2))])
    assert len(curve) == 5
    assert curve[layer] > 1e-3
    assert max(curve[:layer] + curve[layer + 1 :]) < 1e-9
    assert look_depth(curve) == layer / 5


def test_it_is_the_divergence_from_an_image_that_is_not_seen() -> None:
    """Where one layer is all that reads, text that does not see there never has."""
    model = blind_but_in(2)
    inputs = tiny.prompts(model, "llava", (1,))
    length = inputs["input_ids"].shape[1]
    visual = inputs["input_ids"][0] == tiny.IMAGE_ID
    mask = torch.ones(length, length, dtype=torch.bool).tril()
    mask &= ~(~visual[:, None] & visual)
    with torch.no_grad():
        full, blind = (
            model(**{**inputs, **more}, use_cache=False).logits[0, -1].double().log_softmax(-1)
            for more in ({}, {"attention_mask": mask[None, None]})
        )
    expected = float((full.exp() * (full - blind)).sum())
    assert reading_curve(model, [inputs])[2] == pytest.approx(expected, rel=1e-4)


def test_batches_count_by_prompts() -> None:
    model = tiny.build("llava")
    inputs = tiny.prompts(model, "llava", (1, 1, 1))
    pixels = inputs["pixel_values"]
    parts = [
        {
            "input_ids": inputs["input_ids"][part],
            "attention_mask": inputs["attention_mask"][part],
            "pixel_values": pixels[part],
        }
        for part in (slice(0, 1), slice(1, 3))
    ]
    together, apart = reading_curve(model, [inputs]), reading_curve(model, parts)
    assert together == pytest.approx(apart, rel=1e-4)
    assert not any(layer._forward_pre_hooks for layer in model.base_model.language_model.layers)


def test_it_refuses_what_says_nothing() -> None:
    model = tiny.build("llava")
    with pytest.raises(InputError, match="no prompts to measure with"):
        reading_curve(model, [])
    with pytest.raises(InputError, match="no visual token"):
        reading_curve(model, [tiny.prompts(model, "llava", (1, 0))])


def test_a_curve_without_a_peak_is_no_depth() -> None:
    with pytest.raises(InputError, match="no layer reads it"):
        look_depth((0.0, 0.0, 0.0))
    assert look_depth((0.0, 0.5, 0.2, 0.0)) == 0.25
