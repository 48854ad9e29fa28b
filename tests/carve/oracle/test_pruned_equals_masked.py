"""Every family, sdpa and eager, batch 1 and a ragged batch: the fast path equals the slow one."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import foveate
from tests import tiny_vlm as tiny
from tests.carve.oracle.masked import masked_logits

STEPS = 5
TOLERANCE = 1e-5
GREEDY = {
    "max_new_tokens": STEPS,
    "do_sample": False,
    "return_dict_in_generate": True,
    "output_logits": True,
}


def plans_of(run: foveate.Run) -> list[Any]:
    return [
        (
            p.span.sample,
            p.span.tokens,
            *(t[0] for t in (plan.keep_idx, plan.merge_src, plan.merge_dst)),
            plan.adds,
        )
        for p in run.plans
        if (plan := p.plan) is not None
    ]


def extended(inputs: dict[str, Any], sequences: torch.Tensor) -> dict[str, Any]:
    """The prompt's inputs with generated tokens appended."""
    grown = sequences.shape[1] - inputs["input_ids"].shape[1]
    out = {**inputs, "input_ids": sequences}
    ones = torch.ones(sequences.shape[0], grown, dtype=torch.long)
    out["attention_mask"] = torch.cat([inputs["attention_mask"], ones], dim=1)
    for key, fill in (("mm_token_type_ids", 0), ("token_type_ids", 0)):
        if key in inputs:
            out[key] = torch.cat([inputs[key], ones * fill], dim=1)
    return out


def assert_close(a: torch.Tensor, b: torch.Tensor, tolerance: float = TOLERANCE) -> None:
    difference = (a - b).abs()
    scale = max(1.0, float(b.abs().max()))
    assert difference.max() <= tolerance * scale, (
        f"max {difference.max():.2e} mean {difference.mean():.2e} at scale {scale:.1f}"
    )


def method_for(name: str, **settings: Any) -> foveate.TokenCarve:
    return foveate.TokenCarve(keep_ratio=0.4, **settings)


@pytest.mark.parametrize("num_images", [(1,), (1, 2, 0)], ids=["single", "ragged"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", tiny.FAMILIES)
def test_prefill_and_decoding(name: str, attention: str, num_images: tuple[int, ...]) -> None:
    model = tiny.build(name, attention)
    inputs = tiny.prompts(model, name, num_images)
    prompt_length = inputs["input_ids"].shape[1]
    with foveate.attach(model, method_for(name)) as run:
        out = model.generate(**inputs, **GREEDY)
    assert run.report is not None
    assert run.report.fired
    carved = torch.stack(out.logits, dim=1)
    slow_inputs = extended(inputs, out.sequences[:, :-1])
    if name == "paligemma":
        slow_inputs["token_type_ids"][:, prompt_length:] = 1  # generated tokens are causal
    slow = masked_logits(model, slow_inputs, plans_of(run), run.prune_layer, prompt_length)
    assert_close(carved, slow[:, prompt_length - 1 :])
    untouched = masked_logits(model, slow_inputs, [], run.prune_layer, prompt_length)
    gap = (slow - untouched)[torch.tensor(num_images) > 0, prompt_length - 1 :].abs().max()
    assert gap > 1e-3, "the oracle cannot tell pruned from full: the test would pass on anything"


@pytest.mark.parametrize("name", ["llava", "qwen2_vl", "gemma3"])
def test_full_early_cache(name: str) -> None:
    model = tiny.build(name)
    inputs = tiny.prompts(model, name, (1, 2, 0))
    prompt_length = inputs["input_ids"].shape[1]
    with foveate.attach(model, method_for(name, early_cache="full")) as run:
        out = model.generate(**inputs, **GREEDY)
    slow = masked_logits(
        model,
        extended(inputs, out.sequences[:, :-1]),
        plans_of(run),
        run.prune_layer,
        prompt_length,
        compact=False,
    )
    assert_close(torch.stack(out.logits, dim=1), slow[:, prompt_length - 1 :])


@pytest.mark.parametrize("name", [n for n, f in tiny.FAMILIES.items() if f.videos])
@pytest.mark.parametrize("frames", ["joint", "each"])
def test_videos(name: str, frames: str) -> None:
    model = tiny.build(name)
    inputs = tiny.prompts(model, name, (1, 1), video=True)
    prompt_length = inputs["input_ids"].shape[1]
    with foveate.attach(model, method_for(name, frames=frames)) as run:
        out = model.generate(**inputs, **GREEDY)
    assert run.report is not None
    assert {image.kind for image in run.report.images} == {"video"}
    counts = [image.frames for image in run.report.images]
    assert counts == ([3, 3] if name == "llava_onevision" else [3, 2])
    slow = masked_logits(
        model,
        extended(inputs, out.sequences[:, :-1]),
        plans_of(run),
        run.prune_layer,
        prompt_length,
    )
    assert_close(torch.stack(out.logits, dim=1), slow[:, prompt_length - 1 :])


@pytest.mark.parametrize("name", tiny.FAMILIES)
def test_batch_row_equals_single_run(name: str) -> None:
    num_images = (1, 2, 0)
    model = tiny.build(name)
    inputs = tiny.prompts(model, name, num_images)
    with foveate.attach(model, method_for(name)) as run:
        batch = model.generate(**inputs, **GREEDY)
        batch_plans = run.plans
        for sample in range(len(num_images)):
            alone_inputs = tiny.row_of(inputs, model, name, sample, num_images)
            alone = model.generate(**alone_inputs, **GREEDY)
            assert run.report is not None
            assert run.report.fired == bool(num_images[sample])
            kept = [
                p.plan.keep_idx.tolist() for p in batch_plans if p.span.sample == sample and p.plan
            ]
            if num_images[sample]:
                assert kept == [p.plan.keep_idx.tolist() for p in run.plans if p.plan]
            for a, b in zip(batch.logits, alone.logits, strict=True):
                assert_close(a[sample], b[0], 2e-5)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", tiny.FAMILIES)
def test_keeping_everything_is_bitwise(name: str, attention: str) -> None:
    model = tiny.build(name, attention)
    inputs = tiny.prompts(model, name, (1, 2, 0))
    plain = model.generate(**inputs, **GREEDY)
    with foveate.attach(model, foveate.TokenCarve(keep_ratio=1.0)) as run:
        kept = model.generate(**inputs, **GREEDY)
    assert run.report is not None
    assert not run.report.fired
    assert "every visual token" in run.report.reason
    for a, b in zip(plain.logits, kept.logits, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", tiny.FAMILIES)
def test_text_only_is_bitwise(name: str) -> None:
    model = tiny.build(name)
    inputs = tiny.prompts(model, name, (0, 0))
    plain = model.generate(**inputs, **GREEDY)
    with foveate.attach(model, foveate.TokenCarve(keep_tokens=2)) as run:
        carved = model.generate(**inputs, **GREEDY)
    assert run.report is not None
    assert not run.report.fired
    assert "no visual tokens" in run.report.reason
    for a, b in zip(plain.logits, carved.logits, strict=True):
        assert torch.equal(a, b)
