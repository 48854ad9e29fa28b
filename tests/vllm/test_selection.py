"""The decision in vLLM is that of `foveate.attach` in transformers, image by image."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import foveate
from foveate.carve.method import Method
from foveate.core.budget import Budget
from foveate.core.frames import Frames
from foveate.core.received import last_used_layer, received_attention
from foveate.errors import BudgetError
from foveate.vllm.encoder import TowerProbe
from foveate.vllm.selection import carve, carve_items, plan_items
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


# What draws draws by the image's serial, which in vLLM is the same for all.
UNDRAWN = [
    "apet(first_token=3)" if name == "apet" else name
    for name in COMPRESSING
    if name not in ("random", "evs")  # EVS leaves images whole
]
TOWER = (
    *("vision_attention", "vision_attention_early", "vision_received", "vision_received_early"),
    *("vision_keys", "vision_features"),
)


@pytest.mark.parametrize("name", UNDRAWN)
@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "llava_next"])
def test_the_same_tokens_as_in_transformers(family: str, name: str) -> None:
    model = tiny.build(family, "sdpa")
    method = of(name)
    checked = 0
    for visual, plan in shown(model, tiny.prompts(model, family, (1, 2)), method):
        for i in range(visual.num_images):
            own = slice(i, i + 1)
            reads = {name: getattr(visual, name)[own] for name in TOWER if name in method.needs}
            alone = plan_items(method, visual.hidden[own], grid=visual.grids[i], **reads)
            assert alone is not None
            assert alone.to_dict() == plan.image(i).to_dict()
            checked += 1
    assert checked == 3


def test_random_does_not_depend_on_what_was_served_before() -> None:
    hidden = torch.randn(40, 8)
    plans = [plan_items(of("random"), hidden[None]) for _ in range(2)]
    assert plans[0].keep_idx.tolist() == plans[1].keep_idx.tolist()  # type: ignore[union-attr]


@pytest.mark.parametrize("spec", [*COMPRESSING, "divprune(frames=each)", "scope(frames=each)"])
def test_a_video_is_cut_as_a_whole(spec: str) -> None:
    """Its budget is for all frames, and is what its placeholders are counted by."""
    generator = torch.Generator().manual_seed(0)
    frames = Frames((16, 16, 16), (4, 4))
    features = torch.randn(48, 8, generator=generator)
    tower = {name: torch.rand(1, 48, generator=generator) for name in TOWER[:4]}
    tower |= {name: torch.randn(1, 48, 6, generator=generator) for name in TOWER[4:]}
    method = of(spec, 0.4)
    (kept,), (places,) = carve_items(method, features[None], width=8, frames=frames, **tower)
    assert len(kept) == len(places) == method.count(48, frames) == 19
    assert bool((places.diff() > 0).all())
    counts = (places // 16).bincount(minlength=3).tolist()
    if "each" in spec:
        assert counts == [6, 7, 6]
    if spec == "evs":
        assert counts[0] == 16


def test_evs_leaves_images_and_first_frames_whole() -> None:
    method = of("evs", 0.25)
    features = torch.randn(1, 48, 8)
    assert torch.equal(carve_items(method, features, width=8, grid=(6, 8))[0], features)
    assert method.count(48) == 48
    frames = Frames((16, 16, 16), (4, 4))
    _, (places,) = carve_items(method, features, width=8, frames=frames)
    assert places.tolist() == list(range(16))
    assert method.count(48, frames) == 16


def test_what_lies_beside_the_scored_features_is_carved_alike() -> None:
    features = torch.randn(20, 6)
    deep = torch.cat([features, features * 2], dim=1)
    (kept,), (places,) = carve_items(of("pooling"), deep[None], width=6)
    torch.testing.assert_close(kept[:, 6:], 2 * kept[:, :6])
    assert kept.shape == (8, 12)
    assert len(places) == 8


def test_a_full_budget_hands_features_on() -> None:
    features = torch.randn(2, 9, 4)
    plan = plan_items(of("uniform", 1.0), features)
    assert plan is None
    kept, places = carve(plan, features)
    assert kept is features
    assert places.tolist() == [list(range(9))] * 2


@pytest.mark.parametrize("limit", [2**30, 1])
@pytest.mark.parametrize("name", COMPRESSING)
def test_images_decided_together_are_decided_alone(
    name: str, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a decision has needs and the group is divided."""
    monkeypatch.setattr("foveate.vllm.selection.LEAST_BYTES", limit)
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(3, 48, 10, generator=generator)
    tower = {name: torch.rand(3, 48, generator=generator) for name in TOWER[:4]}
    tower |= {name: torch.randn(3, 48, 6, generator=generator) for name in TOWER[4:]}
    method = of(name)
    kept, places = carve_items(method, features, width=8, grid=(6, 8), **tower)
    assert kept.shape == (3, method.count(48), 10)
    for i in range(3):
        own = slice(i, i + 1)
        reads = {name: values[own] for name, values in tower.items()}
        alone = carve_items(method, features[own], width=8, grid=(6, 8), **reads)
        assert places[i].tolist() == alone[1][0].tolist()
        torch.testing.assert_close(kept[i], alone[0][0])


def test_an_image_with_fewer_tokens_than_the_budget() -> None:
    method = method_of({"foveate": {"keep_tokens": 100}})
    assert method is not None
    with pytest.raises(BudgetError, match="keep_tokens=100 exceeds the 64 visual tokens of"):
        method.count(64)


class FakeAttention(nn.Module):
    """Called as vLLM calls its encoder attention."""

    num_heads, head_size, scale = 2, 4, 0.5

    def forward(self, query: Any, key: Any, value: Any, cu_seqlens: Any = None) -> Any:
        return value


class FakeLayer(nn.Module):
    """One layer of a tower, whose output is twice its keys."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = FakeAttention()

    def forward(self, query: Any, key: Any, cu_seqlens: Any = None) -> Any:
        self.attn(query=query, key=key, value=key, cu_seqlens=cu_seqlens)
        return 2 * key.flatten(2), None


def probe_of(layers: Any, name: str, *, has_cls: bool) -> TowerProbe:
    return TowerProbe(
        layers, of(name), attention="attn", num_layers=3, used=2, num_heads=2, has_cls=has_cls
    )


@pytest.mark.parametrize("has_cls", [True, False])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("name", ["visionzip", "hiprune", "scope"])
def test_the_probe_reads_what_passes(name: str, packed: bool, has_cls: bool) -> None:
    layers = [FakeLayer() for _ in range(3)]
    probe = probe_of(layers, name, has_cls=has_cls)
    query, key = torch.randn(3, 2, 10, 8), torch.randn(3, 2, 10, 8)
    layers[2](query[2], key[2])  # not asked for
    with probe.reading():
        for layer, queries, keys in zip(layers, query, key, strict=True):
            if packed:
                q, k = (x.reshape(1, 20, 2, 4) for x in (queries, keys))
                layer(q, k, torch.tensor([0, 10, 20]))
            else:
                layer(queries, keys)
    found = probe.take()
    assert probe.take() == {}
    assert set(found) == of(name).needs
    for need, sequences in found.items():
        if need == "vision_features":
            torch.testing.assert_close(torch.cat(sequences), 2 * key[2].flatten(0, 1))
            continue
        at = 1 if need.endswith("_early") else 2  # 9 of 24 layers is 1 of 3
        for i in range(2):
            q, k = (x[at, i].view(10, 2, 4).transpose(0, 1) for x in (query, key))
            expected = key[at, i].view(10, 2, 4).mean(dim=1)
            if need != "vision_keys":
                is_cls = has_cls and "received" not in need
                expected = received_attention(q, k, 0.5, is_cls)
            torch.testing.assert_close(sequences[i], expected)


def test_a_method_that_reads_nothing_leaves_no_hook() -> None:
    layers = [FakeLayer() for _ in range(3)]
    probe_of(layers, "divprune", has_cls=True)
    assert not any(module._forward_pre_hooks for layer in layers for module in layer.modules())


@pytest.mark.parametrize(
    ("layer", "expected"), [(-1, 23), (-2, 22), (24, 23), (1, 0), ([-2, -5], 19)]
)
def test_the_layer_whose_output_is_taken(layer: Any, expected: int) -> None:
    assert last_used_layer(layer, 24) == expected
