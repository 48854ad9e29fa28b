"""Several steps, stacks, renumbered positions: the fast path equals the masked one."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import foveate
from foveate.errors import MethodError, UnsupportedModelError
from tests import tiny_vlm as tiny
from tests.carve.oracle.masked import Plan, masked_steps
from tests.carve.oracle.test_pruned_equals_masked import GREEDY, assert_close, extended

# pixelprune takes no budget, and other towers: tests/carve/tower/test_drop.py.
BUDGETED = [n for n in foveate.METHODS if n not in ("noop", "stack", "text-share", "pixelprune")]

VISUAL = [tiny.IMAGE_ID, tiny.VIDEO_ID]
FEW = ["llava", "qwen2_5_vl", "gemma3", "smolvlm"]


def steps_of(run: foveate.Run) -> list[tuple[int, list[Plan]]]:
    found = []
    for layer, groups in sorted(run.decisions.items()):
        plans = [
            (
                int(group.samples[i, 0]),
                group.tokens[i],
                group.plan.keep_idx[i],
                group.plan.merge_src[i],
                group.plan.merge_dst[i],
                group.plan.adds,
            )
            for group in groups
            for i in range(group.plan.num_images)
        ]
        found.append((layer, plans))
    return found


def check(
    name: str,
    method: foveate.Method,
    num_images: tuple[int, ...],
    *,
    compact: bool,
    attention: str = "sdpa",
    **settings: Any,
) -> foveate.Run:
    model = tiny.build(name, attention)
    inputs = tiny.prompts(model, name, num_images)
    prompt_length = inputs["input_ids"].shape[1]
    with foveate.attach(model, method) as run:
        # A random model may say the image token, which the slow path would take for an image.
        out = model.generate(**inputs, **GREEDY, suppress_tokens=VISUAL, **settings)
    assert run.report is not None
    assert run.report.fired
    slow = masked_steps(
        model,
        extended(inputs, out.sequences[:, :-1]),
        steps_of(run),
        prompt_length,
        compact=compact,
        renumbered=method.positions == "renumbered",
    )
    assert_close(torch.stack(out.logits, dim=1), slow[:, prompt_length - 1 :])
    return run


@pytest.mark.parametrize("num_images", [(1,), (1, 2, 0)], ids=["single", "ragged"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("early_cache", ["full", "compact"])
@pytest.mark.parametrize("name", FEW)
def test_stages(name: str, early_cache: Any, attention: str, num_images: tuple[int, ...]) -> None:
    method = foveate.PyramidDrop(keep_ratio=0.4, early_cache=early_cache)
    compact = early_cache == "compact"
    run = check(name, method, num_images, compact=compact, attention=attention)
    counts = run.report.tokens_per_layer  # type: ignore[union-attr]
    assert len(set(counts)) == 4, "three cuts, four lengths"
    assert list(counts) == sorted(counts, reverse=True)


@pytest.mark.parametrize("name", FEW)
def test_adaptive_stages_with_merging(name: str) -> None:
    method = foveate.SparseVlm(keep_ratio=0.5, recycled=1.0, cluster_fraction=0.5)
    run = check(name, method, (1, 2, 0), compact=False)
    assert run.report.merged  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["llava", "qwen2_vl"])
def test_stack(name: str) -> None:
    stack = foveate.Stack(
        stages=(foveate.DivPrune(keep_ratio=0.6), foveate.TokenCarve(keep_ratio=0.3))
    )
    run = check(name, stack, (1, 2, 0), compact=True)
    for entry in run.plans:
        assert entry.plan is not None
        entry.plan.check(round(0.3 * entry.span.num_tokens))
        assert entry.plan.num_tokens == entry.span.num_tokens


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("early_cache", ["full", "compact"])
def test_cacheless_stages(early_cache: Any, use_cache: bool) -> None:
    method = foveate.PyramidDrop(keep_ratio=0.4, early_cache=early_cache)
    compact = early_cache == "compact"
    check("llava", method, (1, 2, 0), compact=compact, use_cache=use_cache)


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize(
    "method",
    [
        foveate.TokenCarve(keep_ratio=0.4, positions="renumbered"),
        foveate.DivPrune(keep_ratio=0.4, positions="renumbered"),
        foveate.PyramidDrop(keep_ratio=0.4, positions="renumbered"),
    ],
    ids=lambda method: method.name,
)
def test_renumbered(method: foveate.Method, use_cache: bool) -> None:
    compact = method.early_cache == "compact"
    check("llava", method, (1, 2, 0), compact=compact, use_cache=use_cache)


def test_renumbered_before_the_first_layer_is_a_shorter_prompt() -> None:
    """No mask, no hook: the plain model on the embeddings that are left."""
    model = tiny.build("llava", "sdpa")
    inputs = tiny.prompts(model, "llava", (1,))
    seen = []
    handle = model.base_model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["inputs_embeds"]), with_kwargs=True
    )
    method = foveate.DivPrune(keep_ratio=0.4, positions="renumbered")
    with foveate.attach(model, method) as run, torch.no_grad():
        carved = model(**inputs).logits[:, -1]
    handle.remove()
    entry = run.plans[0]
    assert entry.plan is not None
    stays = torch.ones(seen[0].shape[1], dtype=torch.bool)
    stays[entry.span.tokens] = False
    stays[entry.span.tokens[entry.plan.keep_idx[0]]] = True
    with torch.no_grad():
        hidden = model.base_model.language_model(inputs_embeds=seen[0][:, stays]).last_hidden_state
        plain = model.lm_head(hidden)[:, -1]
    assert_close(carved, plain)
    original = foveate.DivPrune(keep_ratio=0.4)
    with foveate.attach(model, original), torch.no_grad():
        kept_places = model(**inputs).logits[:, -1]
    assert (kept_places - plain).abs().max() > 1e-4, "renumbering changes nothing here"


@pytest.mark.parametrize("name", ["qwen2_vl", "gemma3"])
def test_renumbering_is_refused_where_positions_have_other_forms(name: str) -> None:
    method = foveate.FastV(keep_tokens=3, positions="renumbered")
    with pytest.raises(MethodError, match="needs one-dimensional rotary positions"):
        foveate.attach(tiny.build(name, "sdpa"), method)


def test_second_turn_after_renumbering() -> None:
    """A carved, renumbered cache goes on: as one prefill of both turns on the shorter prompt."""
    model = tiny.build("llava", "sdpa")
    inputs = tiny.prompts(model, "llava", (1,))
    method = foveate.DivPrune(keep_ratio=0.4, positions="renumbered")
    more = torch.tensor([[5, 6, 7, 8]])
    with foveate.attach(model, method), torch.no_grad():
        first = model(**inputs, use_cache=True)
        mask = torch.cat([inputs["attention_mask"], torch.ones_like(more)], dim=1)
        second = model(more, attention_mask=mask, past_key_values=first.past_key_values).logits
        together = model(
            **{
                **inputs,
                "input_ids": torch.cat([inputs["input_ids"], more], dim=1),
                "attention_mask": mask,
            }
        ).logits[:, -4:]
    assert_close(second, together)


# evs and dtd keep still images whole: tests/carve/oracle/test_videos.py.
@pytest.mark.parametrize("name", [n for n in BUDGETED if n not in ("evs", "dtd")])
@pytest.mark.parametrize("family", ["llava", "paligemma", "qwen2_5_vl", "qwen3_vl"])
def test_every_method_batch_row_equals_single_run(family: str, name: str) -> None:
    model = tiny.build(family, "sdpa")
    num_images = (1, 2, 0)
    inputs = tiny.prompts(model, family, num_images)
    method = foveate.method(name, keep_ratio=0.4)
    if method.where == "vision_tower" and family.startswith("qwen"):
        with pytest.raises(MethodError, match="is cut, joined or merged before"):
            foveate.attach(model, method)
        return
    if method.where == "encoder" and family == "qwen3_vl":
        method = foveate.method(name, keep_ratio=0.4, prune_layer=3)
    with foveate.attach(model, method) as run:
        batch = model.generate(**inputs, **GREEDY)
        plans = run.plans
        for sample in (0, 1):
            alone = model.generate(
                **tiny.row_of(inputs, model, family, sample, num_images), **GREEDY
            )
            kept = [p.plan.keep_idx.tolist() for p in plans if p.span.sample == sample and p.plan]
            assert kept
            assert kept == [p.plan.keep_idx.tolist() for p in run.plans if p.plan]
            for a, b in zip(batch.logits, alone.logits, strict=True):
                assert_close(a[sample], b[0], 2e-5)


@pytest.mark.parametrize("name", BUDGETED)
def test_every_method_at_ratio_one_is_bitwise_untouched(name: str) -> None:
    model = tiny.build("llava", "sdpa")
    inputs = tiny.prompts(model, "llava", (1, 2, 0))
    with torch.no_grad():
        plain = model(**inputs).logits
        with foveate.attach(model, foveate.method(name, keep_ratio=1.0)):
            carved = model(**inputs).logits
        after = model(**inputs).logits
    assert torch.equal(carved, plain)
    assert torch.equal(after, plain)


def test_towers_nobody_knows_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="cannot be told apart from outside"):
        foveate.attach(tiny.build("mistral3", "sdpa"), foveate.VisionZip(keep_ratio=0.5))


def test_a_method_of_several_steps_behind_another_spends_its_own_budget() -> None:
    """What was left before its first step is none of what its steps have left."""
    model = tiny.build("llava")
    inputs = tiny.prompts(model, "llava", (1, 2))
    alone = foveate.SparseVlm(keep_ratio=0.4)
    first, *_ = alone.layers(5, 0)
    spent = []
    for before in (False, True):
        method: foveate.Method = alone
        if before:
            pruning = foveate.DivPrune(keep_ratio=0.9, prune_layer=0)
            method = foveate.Stack(stages=(pruning, alone))
        with foveate.attach(model, method) as run, torch.no_grad():
            model(**inputs)
        assert run.report is not None
        spent.append(sum(run.report.tokens_per_layer[first:]))
    assert abs(spent[0] - spent[1]) <= 1
