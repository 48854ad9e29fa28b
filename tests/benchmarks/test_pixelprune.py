"""What the measurement of PixelPrune rests on: seeded pictures, FLOPs, a control that fails."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VisionTransformerPretrainedModel,
)
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionModel

from benchmarks import pixelprune
from benchmarks.screens import CONTROLS, SCREENS
from benchmarks.tower_cost import QWEN2_5, QWEN3, tower_flops

FORM = "form, 1280x720"
GRID = torch.tensor([[1, 12, 20]])


@pytest.mark.parametrize("name", SCREENS)
def test_pictures_follow_from_their_seed(name: str) -> None:
    first, again, other = (np.asarray(SCREENS[name](seed)) for seed in (0, 0, 1))
    assert (first == again).all()
    assert (first != other).any()


@pytest.mark.parametrize("family", pixelprune.PROCESSORS)
def test_a_form_is_rebuilt_and_a_random_choice_is_not(family: str) -> None:
    found = pixelprune.measured(family, SCREENS[FORM](0), seed=0)
    assert found["kept"] < 0.5
    assert found["flops"] < 0.5
    assert found["exact"] is True
    assert found["random_exact"] is False
    assert found["random_patches"] < 0.9


def test_noise_stays() -> None:
    image = CONTROLS["noise, 1280x720"](0).crop((0, 0, 256, 256))
    found = pixelprune.measured("Qwen3-VL", image, seed=0)
    assert found["kept"] == found["flops"] == 1.0
    assert found["random_values"] is None


@pytest.mark.parametrize(
    ("config", "tower"),
    [(QWEN2_5, Qwen2_5_VisionTransformerPretrainedModel), (QWEN3, Qwen3VLVisionModel)],
    ids=["qwen2_5", "qwen3"],
)
def test_flops_are_those_that_modules_count(config: Any, tower: Any) -> None:
    """Against torch's own counter, on a tower of two layers."""
    changed: dict[str, Any] = {"depth": 2, "hidden_size": 64, "num_heads": 4}
    changed |= {"intermediate_size": 96, "out_hidden_size": 64}
    if config is QWEN2_5:
        changed["fullatt_block_indexes"] = [1]
    else:
        changed["deepstack_visual_indexes"] = [0]
    small = type(config)(**{**config.to_dict(), **changed})
    model = tower._from_config(small, attn_implementation="eager")
    pixels = small.in_channels * small.temporal_patch_size * small.patch_size**2
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.randn(240, pixels), grid_thw=GRID)
    assert tower_flops(small, GRID) == counter.get_total_flops()


@pytest.mark.parametrize("config", [QWEN2_5, QWEN3], ids=["qwen2_5", "qwen3"])
def test_flops_where_patches_are_left_out(config: Any) -> None:
    whole = tower_flops(config, GRID)
    assert tower_flops(config, GRID, torch.ones(60, dtype=torch.bool)) == whole
    half = torch.arange(60) % 2 == 0
    part = tower_flops(config, GRID, half)
    none = tower_flops(config, GRID, torch.zeros(60, dtype=torch.bool))
    assert none < part < whole
    # Layers cost a little less than half: attention falls by more.
    assert 0.4 < (part - none) / (whole - none) < 0.5
