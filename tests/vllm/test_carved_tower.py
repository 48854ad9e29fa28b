"""What all towers have in common: grouping, order, budgets and views, on a model that stands in."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from foveate.core.budget import Budget
from foveate.core.frames import Frames
from foveate.vllm.budgets import budget_field, with_budget, write_budgets
from foveate.vllm.carved_tower import CarvedTower, encoder_graphs_off
from foveate.vllm.settings import method_of
from tests.vllm.test_selection import FakeLayer

WIDTH = 8


class StandIn(nn.Module):
    """Images of N patches of 8 numbers; their features are twice what the layer gives."""

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__()
        self.config = vllm_config.model_config.hf_config
        self.layers = nn.ModuleList([FakeLayer() for _ in range(3)])
        self.calls: list[int] = []

    def embed_multimodal(self, pixel_values: Tensor) -> list[Tensor]:
        self.calls.append(len(pixel_values))
        for layer in self.layers:
            out, _ = layer(pixel_values.flatten(1, 2), pixel_values.flatten(1, 2))
        return list(out)

    def get_encoder_cudagraph_config(self) -> Any:
        raise NotImplementedError


class Carved(CarvedTower, StandIn):
    """Patches are 1 x 1, so pixels are [rows, columns, C]."""

    layers_path = "layers"
    attention_path = "attn"
    num_views = 1

    def _keys(self, inputs: Mapping[str, Any]) -> list[Hashable]:
        return [image.shape for image in inputs["pixel_values"]]

    def _at_once(self, inputs: Mapping[str, Any], image: int) -> int:
        return self._fit(inputs["pixel_values"][image][..., 0].numel())

    def _gather(self, inputs: Mapping[str, Any], images: Sequence[int]) -> dict[str, Any]:
        return {"pixel_values": torch.stack([inputs["pixel_values"][i] for i in images])}

    def _views(self, num_tokens: int, images: Mapping[str, Any]) -> Frames | None:
        return None if self.num_views == 1 else Frames((num_tokens // 2,) * 2)


def build(entry: dict[str, Any], most: int = 64) -> Any:
    tower = SimpleNamespace(
        model_type="siglip_vision_model", num_hidden_layers=3, num_attention_heads=2, patch_size=1
    )
    config = SimpleNamespace(vision_config=tower, foveate=entry)
    return Carved(
        vllm_config=SimpleNamespace(
            model_config=SimpleNamespace(hf_config=config),
            scheduler_config=SimpleNamespace(max_num_batched_tokens=most),
        )
    )


def images(*shapes: tuple[int, int]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(*shape, WIDTH, generator=generator) for shape in shapes]


def ask(model: Any, pixels: list[Tensor], budgets: list[Budget]) -> list[Tensor]:
    method = method_of({"foveate": model.config.foveate})
    assert method is not None
    rows = write_budgets(with_budget(method, budget) for budget in budgets)
    found: list[Tensor] = model.embed_multimodal(
        pixel_values=pixels, **{budget_field("image"): rows}
    )
    return found


HALF, TENTH = Budget(keep_ratio=0.5), Budget(keep_ratio=0.1)


@pytest.mark.parametrize("name", ["tokencarve", "divprune", "visionzip"])
def test_images_of_a_size_and_a_budget_together_are_as_alone(name: str) -> None:
    pixels = images((4, 4), (3, 5), (4, 4), (4, 4), (4, 4))
    budgets = [HALF, HALF, TENTH, HALF, HALF]
    together = build({"method": name, "keep_ratio": 0.5})
    found = ask(together, pixels, budgets)
    assert together.calls == [3, 1, 1]
    alone = build({"method": name, "keep_ratio": 0.5, "alone": True})
    expected = ask(alone, pixels, budgets)
    assert alone.calls == [1] * 5
    assert [len(kept) for kept in found] == [8, 8, 2, 8, 8]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
    assert not torch.allclose(found[0], found[3])


def test_no_more_at_once_than_vllm_plans_for() -> None:
    model = build({"method": "divprune", "keep_ratio": 0.5}, most=40)
    ask(model, images(*[(4, 4)] * 5), [HALF] * 5)
    assert model.calls == [2, 2, 1]


def test_views_are_carved_each_by_itself() -> None:
    """As many of one as of the other, and what is kept of one does not depend on the other."""
    model = build({"method": "divprune", "keep_ratio": 0.5})
    (whole,) = ask(model, images((4, 4)), [HALF])
    model.num_views = 2
    first, second = images((4, 4), (4, 4))
    mixed = torch.cat([first[:2], second[2:]])
    (a,), (b,) = (ask(model, [image], [HALF]) for image in (first, mixed))
    torch.testing.assert_close(a[:4], b[:4])
    assert not torch.allclose(a[4:], b[4:])
    assert a.shape == whole.shape


def test_a_full_budget_keeps_features_as_they_are() -> None:
    model = build({"method": "tokencarve", "keep_ratio": 1.0})
    pixels = images((4, 4))
    (found,) = ask(model, pixels, [Budget(keep_ratio=1.0)])
    torch.testing.assert_close(found, 2 * pixels[0].flatten(0, 1))


def test_without_an_entry_it_is_the_parent_s() -> None:
    model = build({"keep_ratio": 0.5})
    model._method = None
    pixels = torch.stack(images((4, 4), (4, 4)))
    found = model.embed_multimodal(pixel_values=pixels)
    assert [kept.shape for kept in found] == [(16, WIDTH)] * 2


def test_no_modality_is_left_to_recorded_graphs() -> None:
    from dataclasses import dataclass, field

    @dataclass
    class Graphs:
        modalities: list[str] = field(default_factory=lambda: ["image"])

    assert encoder_graphs_off(Graphs()).modalities == []
