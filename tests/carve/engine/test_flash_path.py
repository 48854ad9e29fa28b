"""The code path of flash kernels (2-D masks, bottom-right causality), with a stand-in kernel.

Flash attention itself needs a GPU; what foveate must get right is the form of masks and positions.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AttentionInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface

import foveate
from foveate.carve.engine.run import Run
from foveate.errors import UnsupportedModeError
from tests import tiny_vlm as tiny

NAME = "stand_in"  # transformers would go looking for a kernel named flash*


def flash_stand_in(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    position_ids: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Flash semantics: 2-D padding mask or None, causal from the bottom right."""
    assert attention_mask is None or attention_mask.ndim == 2
    batch, _, num_queries, _ = query.shape
    num_keys = key.shape[2]
    if position_ids is not None and batch == 1 and num_queries > 1 and attention_mask is None:
        # Real flash kernels take a gap for the border between packed sequences.
        assert (position_ids.diff(dim=-1) == 1).all(), "gaps in position ids mean packed sequences"
    own = torch.arange(num_queries)[:, None] + num_keys - num_queries
    place = torch.arange(num_keys)[None]
    seen = (place <= own)[None, None].expand(batch, 1, -1, -1)
    if not getattr(module, "is_causal", True):
        seen = torch.ones_like(seen)
    if attention_mask is not None:
        assert attention_mask.shape == (batch, num_keys), (attention_mask.shape, num_keys)
        seen = seen & attention_mask[:, None, None].bool()
        seen = seen | (~seen.any(-1, keepdim=True) & (place == own))
    out = torch.nn.functional.scaled_dot_product_attention(
        query,
        key.repeat_interleave(query.shape[1] // key.shape[1], 1),
        value.repeat_interleave(query.shape[1] // key.shape[1], 1),
        attn_mask=seen,
        scale=scaling,
    )
    return out.transpose(1, 2).contiguous(), None


def register_stand_in(name: str = NAME, *, masks: str = "flash_attention_2") -> None:
    """Let models be built with attn_implementation=name, and get the masks of another kernel."""
    AttentionInterface.register(name, flash_stand_in)
    AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[masks])


@pytest.fixture(autouse=True)
def _registered() -> None:
    register_stand_in()


@pytest.mark.parametrize("num_images", [(1,), (1, 2, 0)], ids=["single", "ragged"])
@pytest.mark.parametrize("name", ["llava", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl"])
def test_flash_equals_sdpa(name: str, num_images: tuple[int, ...]) -> None:
    outputs = []
    for attention in ("sdpa", NAME):
        model = tiny.build(name, attention)
        inputs = tiny.prompts(model, name, num_images)
        with foveate.attach(model, foveate.TokenCarve(keep_ratio=0.4)) as run:
            out = model.generate(
                **inputs,
                max_new_tokens=4,
                do_sample=False,
                return_dict_in_generate=True,
                output_logits=True,
            )
        assert run.report is not None
        assert run.report.fired
        outputs.append(torch.stack(out.logits))
    torch.testing.assert_close(outputs[0], outputs[1], atol=5e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "method",
    [
        foveate.PyramidDrop(keep_ratio=0.4),
        foveate.SparseVlm(keep_ratio=0.4),
        foveate.FoveaCarve(keep_ratio=0.3),
        foveate.VisionZip(keep_ratio=0.4),
        foveate.TokenCarve(keep_ratio=0.4, positions="renumbered"),
    ],
    ids=str,
)
def test_other_ways_of_acting_on_flash(method: foveate.Method) -> None:
    outputs, plans = [], []
    for attention in ("sdpa", NAME):
        model = tiny.build("llava", attention)
        inputs = tiny.prompts(model, "llava", (1, 2, 0))
        with foveate.attach(model, method) as run:
            out = model.generate(
                **inputs,
                max_new_tokens=4,
                do_sample=False,
                return_dict_in_generate=True,
                output_logits=True,
            )
        outputs.append(torch.stack(out.logits))
        plans.append([p.plan.keep_idx.tolist() for p in run.plans if p.plan])
    assert plans[0] == plans[1]
    torch.testing.assert_close(outputs[0], outputs[1], atol=5e-5, rtol=1e-4)


def test_sizes_of_merged_tokens_need_a_kernel_that_takes_a_bias() -> None:
    model = tiny.build("llava", NAME)
    inputs = tiny.prompts(model, "llava", (1,))
    with (
        foveate.attach(model, foveate.ToMe(keep_ratio=0.4)),
        torch.no_grad(),
        pytest.raises(UnsupportedModeError, match="attn_implementation='sdpa'"),
    ):
        model(**inputs)


def test_second_turn_on_flash() -> None:
    logits = []
    for attention in ("sdpa", NAME):
        model = tiny.build("llava", attention)
        first = tiny.prompts(model, "llava", (1,))
        second = tiny.prompts(model, "llava", (1,), seed=50)["input_ids"]
        pixels = first["pixel_values"]
        with foveate.attach(model, foveate.TokenCarve(keep_ratio=0.4)), torch.no_grad():
            cache = model(**first).past_key_values
            out = model(input_ids=second, pixel_values=pixels, past_key_values=cache)
        logits.append(out.logits[:, -3:])
    torch.testing.assert_close(logits[0], logits[1], atol=5e-5, rtol=1e-4)


@pytest.mark.parametrize("num_images", [(1,), (1, 2, 0)], ids=["single", "ragged"])
@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
def test_prompts_shortened_before_the_decoder(name: str, num_images: tuple[int, ...]) -> None:
    outputs = []
    for attention in ("sdpa", NAME):
        model = tiny.build(name, attention)
        inputs = tiny.prompts(model, name, num_images)
        method = foveate.DivPrune(keep_ratio=0.4, prune_layer=0)
        with Run(model, method, cut="before_llm") as run:
            out = model.generate(
                **inputs,
                max_new_tokens=4,
                do_sample=False,
                return_dict_in_generate=True,
                output_logits=True,
            )
        assert run.report is not None
        assert run.report.fired
        outputs.append(torch.stack(out.logits))
    assert torch.allclose(*outputs, atol=1e-5)
