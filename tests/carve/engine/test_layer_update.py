"""What a layer adds to the residual stream, as a method is shown it before the next one."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import foveate
from foveate.errors import MethodError
from tests import tiny_vlm as tiny


def shown(model: Any, inputs: dict[str, Any], method: Any) -> list[Any]:
    seen: list[Any] = []
    kind = type(method)
    plan = kind.plan

    def spy(self: Any, visual: Any, keep: int) -> Any:
        seen.append(visual)
        return plan(self, visual, keep)

    with pytest.MonkeyPatch.context() as patch, foveate.attach(model, method), torch.no_grad():
        patch.setattr(kind, "plan", spy)
        model(**inputs)
    return seen


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_it_is_what_the_layer_before_added(family: str) -> None:
    model = tiny.build(family, "sdpa")
    inputs = tiny.prompts(model, family, (1,))
    with torch.no_grad():
        states = model(**inputs, output_hidden_states=True).hidden_states
    first = shown(model, inputs, foveate.V2Drop(keep_ratio=0.5, prune_layer=1))[0]
    is_image = inputs["input_ids"][0] == model.config.image_token_id
    update = (states[1] - states[0])[0, is_image]
    torch.testing.assert_close(first.layer_update[0], update)
    torch.testing.assert_close(first.hidden[0], states[1][0, is_image])


def test_later_steps_see_the_tokens_that_are_left() -> None:
    model = tiny.build("llava", "sdpa")
    inputs = tiny.prompts(model, "llava", (1, 2))
    for visual in shown(model, inputs, foveate.V2Drop(keep_ratio=0.5)):
        assert visual.layer_update.shape == visual.hidden.shape
        assert visual.layer_update.abs().amin() > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prune_layer": 0}, "prune_layer=0 has none"),
        ({"last": 0}, "last=0 is below 1"),
    ],
)
def test_what_it_refuses(settings: dict[str, int], message: str) -> None:
    with pytest.raises(MethodError, match=message):
        foveate.V2Drop(keep_ratio=0.5, **settings)


def test_a_decoder_with_too_few_layers() -> None:
    with pytest.raises(MethodError, match="cannot cut 3 times from layer 1 on in 3 decoder layers"):
        foveate.V2Drop(keep_ratio=0.5).layers(3, 0)
