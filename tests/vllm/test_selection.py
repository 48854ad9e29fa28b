"""The decision in vLLM is that of `foveate.attach` in transformers, image by image."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import foveate
from foveate.carve.method import Method
from foveate.core.budget import Budget
from foveate.core.received import last_used_layer, received_attention
from foveate.errors import BudgetError
from foveate.vllm.encoder import TowerProbe
from foveate.vllm.selection import carve, carve_units, num_kept, plan_image
from foveate.vllm.settings import method_of, servable_methods, to_settings
from tests import tiny_vlm as tiny

COMPRESSING = [name for name in servable_methods() if name != "noop"]


def of(name: str, keep_ratio: float = 0.4) -> Method:
    method = method_of(to_settings(name, Budget(keep_ratio=keep_ratio)))
    assert method is not None
    return method


def shown(model: Any, inputs: dict[str, Any], method: Method) -> list[tuple[Any, Any]]:
    """What the method was shown in transformers, and what it decided."""
    seen = []
    kind = type(method)
    plan = kind.plan

    def spy(self: Any, visual: Any, keep: int) -> Any:
        seen.append((visual, plan(self, visual, keep)))
        return seen[-1][1]

    with pytest.MonkeyPatch.context() as patch, foveate.attach(model, method), torch.no_grad():
        patch.setattr(kind, "plan", spy)
        model(**inputs)
    return seen


@pytest.mark.parametrize("name", [name for name in COMPRESSING if name != "random"])
@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "llava_next"])
def test_the_same_tokens_as_in_transformers(family: str, name: str) -> None:
    model = tiny.build(family, "sdpa")
    method = of(name)
    checked = 0
    for visual, plan in shown(model, tiny.prompts(model, family, (1, 2)), method):
        for i in range(visual.num_images):
            reads = method.step_needs
            own = plan_image(
                method,
                visual.hidden[i],
                grid=visual.grids[i],
                vision_attention=visual.vision_attention[i] if reads else None,
                vision_keys=visual.vision_keys[i] if "vision_keys" in reads else None,
            )
            assert own is not None
            assert own.to_dict() == plan.image(i).to_dict()
            checked += 1
    assert checked == 3


def test_random_does_not_depend_on_what_was_served_before() -> None:
    hidden = torch.randn(40, 8)
    plans = [plan_image(of("random"), hidden) for _ in range(2)]
    assert plans[0].keep_idx.tolist() == plans[1].keep_idx.tolist()  # type: ignore[union-attr]


@pytest.mark.parametrize("name", COMPRESSING)
def test_an_image_is_decided_alone(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    features, attention, keys = (
        torch.randn(48, 8, generator=generator),
        torch.rand(48, generator=generator),
        torch.randn(48, 6, generator=generator),
    )
    method = of(name, 0.25)
    kept, places = carve_units(
        method, features, [16, 16, 16], width=8, grid=(4, 4),
        vision_attention=attention, vision_keys=keys,
    )  # fmt: skip
    assert len(kept) == num_kept(method, [16, 16, 16]) == 12
    middle = slice(16, 32)
    alone, own = carve_units(
        method, features[middle], [16], width=8, grid=(4, 4),
        vision_attention=attention[middle], vision_keys=keys[middle],
    )  # fmt: skip
    assert torch.equal(kept[4:8], alone)
    assert torch.equal(places[4:8], own + 16)


def test_what_lies_beside_the_scored_features_is_carved_alike() -> None:
    features = torch.randn(20, 6)
    deep = torch.cat([features, features * 2], dim=1)
    kept, places = carve_units(of("pooling"), deep, [20], width=6)
    torch.testing.assert_close(kept[:, 6:], 2 * kept[:, :6])
    assert kept.shape == (8, 12)
    assert len(places) == 8


def test_a_full_budget_hands_features_on() -> None:
    features = torch.randn(9, 4)
    plan = plan_image(of("uniform", 1.0), features)
    assert plan is None
    kept, places = carve(plan, features)
    assert kept is features
    assert places.tolist() == list(range(9))


@pytest.mark.parametrize(("ratio", "n", "count"), [(0.25, 576, 144), (0.25, 2, 1), (0.1, 3, 1)])
def test_placeholders_are_counted_as_the_budget_counts(ratio: float, n: int, count: int) -> None:
    assert num_kept(of("uniform", ratio), [n]) == Budget(keep_ratio=ratio).count(n) == count
    assert num_kept(of("uniform", ratio), [n, n]) == 2 * count


def test_an_image_with_fewer_tokens_than_the_budget() -> None:
    method = method_of({"foveate": {"keep_tokens": 100}})
    assert method is not None
    with pytest.raises(BudgetError, match="keep_tokens=100 exceeds the 64 visual tokens of"):
        num_kept(method, [64])


class FakeAttention(nn.Module):
    """Called as vLLM calls its encoder attention."""

    num_heads, head_size, scale = 2, 4, 0.5

    def forward(self, query: Any, key: Any, value: Any, cu_seqlens: Any = None) -> Any:
        return value


@pytest.mark.parametrize("has_cls", [True, False])
@pytest.mark.parametrize("packed", [True, False])
def test_the_probe_reads_what_passes(packed: bool, has_cls: bool) -> None:
    module = FakeAttention()
    probe = TowerProbe(module, of("visionzip"), num_heads=2, has_cls=has_cls)
    query, key = torch.randn(2, 10, 8), torch.randn(2, 10, 8)
    module(query, key, key)  # not asked for
    with probe.reading():
        if packed:
            one = (x.reshape(1, 20, 2, 4) for x in (query, key))
            ends = torch.tensor([0, 10, 20])
            q, k = one
            module(query=q, key=k, value=k, cu_seqlens=ends)
        else:
            module(query, key, key)
    reading = probe.take()
    assert probe.take().keys == []
    for i in range(2):
        q, k = (x[i].view(10, 2, 4).transpose(0, 1) for x in (query, key))
        expected = received_attention(q, k, 0.5, has_cls)
        torch.testing.assert_close(reading.attention[i], expected)
        torch.testing.assert_close(reading.keys[i], key[i])


def test_a_method_that_reads_nothing_leaves_no_hook() -> None:
    module = FakeAttention()
    TowerProbe(module, of("divprune"), num_heads=2, has_cls=True)
    assert not module._forward_pre_hooks


@pytest.mark.parametrize(
    ("layer", "expected"), [(-1, 23), (-2, 22), (24, 23), (1, 0), ([-2, -5], 19)]
)
def test_the_layer_whose_output_is_taken(layer: Any, expected: int) -> None:
    assert last_used_layer(layer, 24) == expected
