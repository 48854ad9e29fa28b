"""What steps read of the decoder: attention of the layer about to run, keys, states it entered."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

import foveate
from foveate.carve.engine.reading import layers_to_look_at
from foveate.core.visual import VisualTokens
from foveate.errors import UnsupportedModelError
from foveate.models.anatomy import anatomy_of
from tests import tiny_vlm as tiny

FAMILIES = ("llava", "qwen2_5_vl", "qwen3_vl", "gemma3", "smolvlm")
every_family = pytest.mark.parametrize("family", FAMILIES)


def decoder_of(model: Any) -> Any:
    return anatomy_of(model, with_explicit_mask=False).decoder


class Seen:
    """What a method was shown, step by step, and the maps of every layer of the same prompts."""

    def __init__(
        self,
        family: str,
        method: foveate.Method,
        num_images: tuple[int, ...],
        *,
        attention: str = "eager",
    ) -> None:
        self.model = tiny.build(family, attention)
        self.inputs = tiny.prompts(self.model, family, num_images)
        self.looks: list[VisualTokens] = []
        real = type(method).plan

        def plan(own: Any, visual: VisualTokens, keep: int) -> Any:
            self.looks.append(visual)
            return real(own, visual, keep)

        with pytest.MonkeyPatch.context() as patch, torch.no_grad():
            patch.setattr(type(method), "plan", plan)
            with foveate.attach(self.model, method) as run:
                self.model(**self.inputs)
                self.spans = [plan.span for plan in run.plans]
            if attention != "eager":
                return
            out = self.model(**self.inputs, output_attentions=True, output_hidden_states=True)
        self.maps: tuple[Tensor, ...] = out.attentions
        self.states: tuple[Tensor, ...] = out.hidden_states

    def of_image(self, values: str) -> list[Tensor]:
        """A field of every image of the first step, in the order of the images."""
        found: dict[int, Tensor] = {}
        for look in self.looks:
            if look.counts:
                continue
            found |= {serial: getattr(look, values)[i] for i, serial in enumerate(self.order(look))}
        return [found[i] for i in sorted(found)]

    def order(self, look: VisualTokens) -> list[int]:
        """Which image each one is, by its states."""
        numbers = []
        for own in look.hidden:
            gaps = [
                float((self.states[self.layer][s.sample, s.tokens] - own).abs().max())
                if s.num_tokens == len(own)
                else torch.inf
                for s in self.spans
            ]
            numbers.append(min(range(len(gaps)), key=gaps.__getitem__))
        return numbers

    layer = 2


@every_family
@pytest.mark.parametrize("num_images", [(1,), (1, 2)])
def test_attention_of_the_layer_about_to_run(family: str, num_images: tuple[int, ...]) -> None:
    method = foveate.PyramidDrop(keep_tokens=3, prune_layer=2, stages=1)
    seen = Seen(family, method, num_images)
    last = seen.inputs["attention_mask"].long().cumsum(dim=1).argmax(dim=1)
    for span, own in zip(seen.spans, seen.of_image("attention"), strict=True):
        row = [maps[span.sample, :, last[span.sample]][:, span.tokens] for maps in seen.maps]
        torch.testing.assert_close(own, row[2])
        assert not torch.allclose(own, row[1]), "the layer before is no other"


@pytest.mark.parametrize("positions", ["original", "renumbered"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_the_second_cut_looks_at_what_the_first_left(positions: Any, attention: str) -> None:
    """As the layer itself attends where nothing is cut before it."""
    settings: dict[str, Any] = {"prune_layer": 2, "positions": positions}
    twice = foveate.PyramidDrop(keep_tokens=4, stages=2, **settings)
    seen = Seen("llava", twice, (1,), attention=attention)
    first, second = seen.looks
    assert second.attention is not None
    assert second.num_tokens < first.num_tokens
    once = foveate.PyramidDrop(keep_tokens=second.num_tokens, stages=1, **settings)
    model = tiny.build("llava", "eager")
    with foveate.attach(model, once), torch.no_grad():
        maps = model(**seen.inputs, output_attentions=True).attentions
    start = seen.spans[0].first
    row = maps[3][:, :, -1, start : start + second.num_tokens]
    torch.testing.assert_close(second.attention, row)
    other = {"original": "renumbered", "renumbered": "original"}[positions]
    moved = Seen("llava", dataclasses.replace(twice, positions=other), (1,)).looks[1]
    assert not torch.allclose(second.attention, moved.attention), "positions change nothing"


@every_family
def test_states_as_they_entered_and_behind_the_final_norm(family: str) -> None:
    seen = Seen(family, foveate.Dart(keep_tokens=5, prune_layer=2), (1, 2))
    norm = decoder_of(seen.model).norm
    with torch.no_grad():
        for look in seen.looks:
            assert look.normed is not None
            assert look.text_normed is not None
            assert look.text is not None
            torch.testing.assert_close(look.normed, norm(look.hidden))
            assert look.text_mask is not None
            expected = norm(look.text) * look.text_mask.unsqueeze(-1)
            torch.testing.assert_close(look.text_normed, expected)
    sparse = Seen(family, foveate.SparseVlm(keep_tokens=5, prune_layer=2), (1, 2))
    for look in sparse.looks:
        entering = look.entering
        assert entering is not None
        for number, own in zip(sparse.order(look), entering.hidden, strict=True):
            span = sparse.spans[number]
            torch.testing.assert_close(own, sparse.states[0][span.sample, span.tokens])


@every_family
def test_keys_are_those_of_the_layer_before(family: str) -> None:
    """Pivots alone are kept where the budget is four: those of the largest keys."""
    seen = Seen(family, foveate.Dart(keep_tokens=4, prune_layer=2, text_pivots=1), (1,))
    (look,) = seen.looks
    assert look.keys is not None
    assert look.text_keys is not None
    assert look.text is not None
    assert look.text_keys.shape[:2] == look.text.shape[:2]
    layer = decoder_of(seen.model).layers[1]
    attention = layer.self_attn
    with torch.no_grad():
        state = layer.input_layernorm(seen.states[1])
        raw = attention.k_proj(state)[0, seen.spans[0].tokens]
    # Rotary and norms of heads change neither the number of keys nor, rotary, their L2 norm.
    assert raw.shape == look.keys[0].shape
    if not hasattr(attention, "k_norm"):
        torch.testing.assert_close(raw.norm(dim=-1), look.keys[0].norm(dim=-1))


def test_a_layer_without_attention_is_refused() -> None:
    anatomy = anatomy_of(tiny.build("llava"), with_explicit_mask=False)
    method = foveate.PyramidDrop(keep_tokens=4, prune_layer=2, stages=1)
    steps = {step.layer: step for step in method.steps(4, 0)}
    assert layers_to_look_at(anatomy, steps) == (2,)
    anatomy.decoder.config.layer_types = [
        "full_attention",
        "full_attention",
        "linear_attention",
        "full_attention",
    ]
    with pytest.raises(UnsupportedModelError, match="ranks_by='before'"):
        layers_to_look_at(anatomy, steps)
