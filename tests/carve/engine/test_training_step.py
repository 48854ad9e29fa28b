"""A training step under compression: loss and gradients of what is left, as the masked oracle's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import foveate
from foveate.carve.registry import method
from foveate.errors import UnsupportedModeError
from tests import tiny_kinds as kinds
from tests import tiny_vlm as tiny
from tests.carve.engine.training_batch import (
    RAGGED,
    answered,
    answers_only,
    assert_same_step,
    everything,
    gradients,
    oracle,
    prompt_of,
)
from tests.carve.oracle.masked import masked_loss
from tests.carve.oracle.test_pruned_equals_masked import GREEDY, assert_close, extended

CARVE = foveate.TokenCarve(keep_ratio=0.4)
CHECKPOINTED = ["llava", "qwen2_5_vl", "gemma3", "smolvlm"]
SELECTING = ["tokencarve", "fastv", "sparsevlm", "pyramiddrop", "foveacarve", "mmtok", "cdpruner"]
Labelling = Callable[[dict[str, Any]], Tensor]


def trainable(name: str, attention: str = "sdpa") -> Any:
    """In float64, so that equal means equal: in float32 sums over all rows differ by 1e-5."""
    return tiny.build(name, attention).train().double()


@pytest.fixture(scope="module")
def llava() -> Any:
    return trainable("llava")


# --- loss and gradients ---


@pytest.mark.parametrize("labelling", [answers_only, everything])
@pytest.mark.parametrize("num_images", [(1,), RAGGED], ids=["single", "ragged"])
@pytest.mark.parametrize("name", tiny.FAMILIES)
def test_step_equals_masked(name: str, num_images: tuple[int, ...], labelling: Labelling) -> None:
    model = trainable(name)
    inputs = answered(model, name, num_images)
    labels = labelling(inputs)
    given = labels.clone()
    with foveate.attach(model, CARVE) as run:
        loss = model(**inputs, labels=labels).loss
    assert run.report is not None
    assert run.report.fired
    assert torch.equal(labels, given), "the caller's labels were written to"
    slow = oracle(model, inputs, labels, run)
    uncompressed = gradients(model, masked_loss(model, inputs, labels, []))
    expected = gradients(model, slow)
    gap = max(float((uncompressed[n] - g).abs().max()) for n, g in expected.items())
    assert gap > 1e-3, "the oracle cannot tell carved from full: the test would pass on anything"
    assert_same_step(model, loss, oracle(model, inputs, labels, run))


@pytest.mark.parametrize("name", CHECKPOINTED)
def test_eager_attention(name: str) -> None:
    # In float64 transformers' own eager rows of padding are not numbers: softmax is float32 there.
    model = trainable(name, "eager").float()
    inputs = answered(model, name)
    labels = everything(inputs)
    with foveate.attach(model, CARVE) as run:
        loss = model(**inputs, labels=labels).loss
    assert_same_step(model, loss, oracle(model, inputs, labels, run))


@pytest.mark.parametrize("reentrant", [False, True], ids=["torch default", "reentrant"])
@pytest.mark.parametrize("use_cache", [None, True, False])
@pytest.mark.parametrize("name", CHECKPOINTED)
def test_gradient_checkpointing(name: str, use_cache: bool | None, reentrant: bool) -> None:
    model = trainable(name)
    inputs = answered(model, name)
    labels = answers_only(inputs)
    how = {} if use_cache is None else {"use_cache": use_cache}
    with foveate.attach(model, CARVE) as run:
        expected = gradients(model, model(**inputs, labels=labels).loss)
        # The reentrant kind recomputes only layers whose input has a gradient.
        checkpoint(model, use_reentrant=reentrant)
        model.enable_input_require_grads()
        calls = _count_calls(model.base_model.language_model if name != "smolvlm" else None, model)
        loss = model(**inputs, labels=labels, **how).loss
        before = list(calls)
        found = gradients(model, loss)
        assert len(calls) == 2 * len(before) > 0, "nothing was recomputed: no checkpointing"
        assert run.report is not None
        assert run.report.kv_bytes is None, "a checkpointed layer stores no cache"
    slow = oracle(model, inputs, labels, run)
    assert_close(loss.detach(), slow.detach())
    assert found.keys() == expected.keys()
    for parameter, gradient in expected.items():
        assert_close(found[parameter], gradient, 1e-6)


def checkpoint(model: Any, **settings: Any) -> None:
    """Switch gradient checkpointing on, by the name that transformers has for it."""
    name = "activation_checkpointing_enable"
    enable = getattr(model, name, None) or model.gradient_checkpointing_enable
    enable(settings)


def _count_calls(decoder: Any, model: Any) -> list[int]:
    """Grows whenever a decoder layer computes, also when it is recomputed."""
    decoder = decoder if decoder is not None else model.base_model.text_model
    calls: list[int] = []
    for layer in decoder.layers:
        layer.mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    return calls


@pytest.mark.parametrize("name", [*SELECTING, "dart", "divprune", "pooling", "visionzip"])
def test_every_kind_of_method(llava: Any, name: str) -> None:
    inputs = answered(llava, "llava")
    labels = answers_only(inputs)
    with foveate.attach(llava, method(name, keep_ratio=0.4)) as run:
        loss = llava(**inputs, labels=labels).loss
    assert run.report is not None
    assert run.report.fired
    assert_same_step(llava, loss, oracle(llava, inputs, labels, run))


@pytest.mark.parametrize("name", ["tome", "prune-and-merge", "resize"])
def test_gradient_reaches_a_shortened_tower(llava: Any, name: str) -> None:
    inputs = answered(llava, "llava", (1, 1, 1))
    with foveate.attach(llava, method(name, keep_ratio=0.4)):
        out = llava(**inputs, labels=answers_only(inputs))
    found = gradients(llava, out.loss)
    tower = [g for n, g in found.items() if "vision_tower" in n and "patch_embedding" in n]
    assert tower
    assert all(bool(g.isfinite().all()) and float(g.abs().max()) > 0 for g in tower)


@pytest.mark.parametrize("num_items", [7, torch.tensor(7)], ids=["int", "tensor"])
def test_items_of_an_accumulated_batch(llava: Any, num_items: Any) -> None:
    inputs = answered(llava, "llava")
    labels = answers_only(inputs)
    with foveate.attach(llava, CARVE) as run:
        loss = llava(**inputs, labels=labels, num_items_in_batch=num_items).loss
    assert_same_step(llava, loss, oracle(llava, inputs, labels, run, num_items=7))


def test_labels_that_are_shifted_already(llava: Any) -> None:
    inputs = answered(llava, "llava")
    labels = everything(inputs)
    shifted = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=-100)
    given = shifted.clone()
    with foveate.attach(llava, CARVE) as run:
        loss = llava(**inputs, labels=labels, shift_labels=shifted).loss
    assert torch.equal(shifted, given)
    assert_same_step(llava, loss, oracle(llava, inputs, labels, run))


def test_embeddings_in_place_of_ids() -> None:
    """A text decoder that is fed visual embeddings."""
    import transformers

    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**tiny.TEXT)).train()
    embeds = torch.randn(2, 40, 48)
    visual_mask = torch.zeros(2, 40, dtype=torch.bool)
    visual_mask[0, 3:23] = visual_mask[1, 5:30] = True
    labels = torch.randint(5, 80, (2, 40)).masked_fill(visual_mask, -100)
    labels[:, :35] = -100
    with foveate.attach(model, CARVE, visual_mask=visual_mask) as run:
        out = model(inputs_embeds=embeds, labels=labels)
        run.visual_mask = torch.zeros_like(visual_mask)
        plain = model(inputs_embeds=embeds, labels=labels)
    assert out.logits.shape == plain.logits.shape
    assert_close(out.logits[:, :3], plain.logits[:, :3])  # before the images
    assert (out.logits - plain.logits)[:, 30:].abs().max() > 1e-3


# --- a method may not read the answer ---


@pytest.mark.parametrize("name", SELECTING)
@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_selection_is_that_of_generation(family: str, name: str) -> None:
    """Trained on a prompt with its answer, the model keeps what it keeps when it has to answer."""
    model = trainable(family)
    inputs = answered(model, family, (1, 1))
    prompt = prompt_of(model, family, (1, 1))
    with foveate.attach(model, method(name, keep_ratio=0.4)) as run:
        model(**prompt)
        expected = _kept(run)
        model(**inputs, labels=answers_only(inputs))
        assert _kept(run) == expected


def test_without_labels_the_answer_is_read() -> None:
    """The control: the last token decides, and it is another one."""
    model = trainable("llava")
    inputs, prompt = answered(model, "llava", (1, 1)), prompt_of(model, "llava", (1, 1))
    with foveate.attach(model, foveate.FastV(keep_ratio=0.4)) as run:
        model(**prompt)
        expected = _kept(run)
        model(**inputs)
        assert _kept(run) != expected


def _kept(run: foveate.Run) -> list[list[int]]:
    return [image.plan.keep_idx[0].tolist() for image in run.plans if image.plan]


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "gemma3"])
def test_with_a_full_early_cache_it_trains_what_it_generates(name: str) -> None:
    model = tiny.build(name)
    prompt = tiny.prompts(model, name, (1, 1))
    length = prompt["input_ids"].shape[1]
    with foveate.attach(model, foveate.TokenCarve(keep_ratio=0.4, early_cache="full")):
        said = model.generate(**prompt, **GREEDY, suppress_tokens=[tiny.IMAGE_ID, tiny.VIDEO_ID])
        inputs = extended(prompt, said.sequences)
        labels = inputs["input_ids"].clone()
        labels[:, :length] = -100
        logits = model(**inputs, labels=labels).logits
    generated = torch.stack(said.logits, dim=1)
    seen = generated.isfinite()
    trained = logits[:, length - 1 : -1]
    assert_close(trained[seen], generated[seen])


# --- off is off ---


@pytest.mark.parametrize("num_images", [RAGGED, (0, 0)], ids=["all kept", "text only"])
def test_nothing_dropped_is_bitwise_off(llava: Any, num_images: tuple[int, ...]) -> None:
    inputs = answered(llava, "llava", num_images)
    labels = everything(inputs)
    plain = llava(**inputs, labels=labels)
    ratio = 1.0 if sum(num_images) else 0.4
    with foveate.attach(llava, foveate.TokenCarve(keep_ratio=ratio)) as run:
        same = llava(**inputs, labels=labels)
    assert run.report is not None
    assert not run.report.fired
    assert torch.equal(plain.loss, same.loss)
    assert torch.equal(plain.logits, same.logits)


def test_a_failed_call_leaves_no_labels_behind(llava: Any) -> None:
    inputs = answered(llava, "llava")
    labels = answers_only(inputs)
    with foveate.attach(llava, CARVE):
        short = llava(**inputs).logits.shape
        with pytest.raises((TypeError, RuntimeError, ValueError)):
            llava(**{**inputs, "pixel_values": torch.zeros(1)}, labels=labels)
        assert llava(**inputs).logits.shape == short


def test_a_loss_over_the_routers_of_all_columns_is_refused(llava: Any) -> None:
    inputs = answered(llava, "llava")

    def with_routers(module: Any, args: Any, output: Any) -> Any:
        output["router_logits"] = (torch.zeros(1),)
        return output

    handle = llava.base_model.register_forward_hook(with_routers)
    try:
        with foveate.attach(llava, CARVE):
            with pytest.raises(UnsupportedModeError, match="set output_router_logits=False"):
                llava(**inputs, labels=answers_only(inputs))
            assert llava(**inputs).logits is not None  # no loss, no refusal
    finally:
        handle.remove()


# --- logits at positions ---


def _positions(kind: str, wanted: list[int], length: int) -> Tensor:
    if kind == "negative":
        return torch.tensor(wanted) - length
    if kind == "mask":
        mask = torch.zeros(3, length, dtype=torch.bool)
        mask[:, wanted] = True
        return mask
    if kind == "per row":
        return torch.tensor([wanted, wanted[::-1], wanted])
    return torch.tensor(wanted)


@pytest.mark.parametrize("kind", ["list", "negative", "per row", "mask"])
def test_positions_are_columns_of_the_prompt(llava: Any, kind: str) -> None:
    inputs = answered(llava, "llava")
    length = inputs["input_ids"].shape[1]
    wanted = _positions(kind, [length - 6, length - 4, length - 1], length)
    with foveate.attach(llava, CARVE) as run, torch.no_grad():
        chosen = llava(**inputs, logits_to_keep=wanted).logits
        assert run.report is not None
        assert run.report.fired
        short = llava(**inputs).logits
    expected = short[:, [-6, -4, -1]]  # what is left is right-aligned
    if kind == "per row":
        expected = torch.stack([expected[0], expected[1].flip(0), expected[2]])
    assert_close(chosen, expected.flatten(0, 1) if kind == "mask" else expected)
    plain = llava(**inputs, logits_to_keep=wanted).logits
    assert (chosen - plain).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["list", "negative", "per row", "mask"])
def test_dropped_positions_are_refused(llava: Any, kind: str) -> None:
    inputs = answered(llava, "llava")
    length = inputs["input_ids"].shape[1]
    with foveate.attach(llava, CARVE) as run:
        llava(**inputs)
        image = run.plans[0]
        assert image.plan is not None
        gone = sorted({*range(image.span.num_tokens)} - {*image.plan.keep_idx[0].tolist()})
        column = int(image.span.tokens[gone[0]])
        wanted = _positions(kind, [column, length - 4, length - 1], length)
        with pytest.raises(UnsupportedModeError, match="positions that were dropped"):
            llava(**inputs, logits_to_keep=wanted)


# --- the report ---


def test_report_says_how_much_shorter_the_step_was(llava: Any) -> None:
    inputs = answered(llava, "llava")
    labels = everything(inputs)
    with foveate.attach(llava, CARVE) as run:
        loss = llava(**inputs, labels=labels).loss
        report = run.report
        assert report is not None
        llava(**inputs)
        assert run.report is not None
        assert run.report.num_labels is None
    assert torch.isfinite(loss)
    full, short = report.length_before, report.length_after
    assert report.rows_per_layer == (full, full, short, short, short)
    assert report.row_share == pytest.approx((2 * full + 3 * short) / (5 * full))
    assert report.num_labels is not None
    given = int((labels[:, 1:] != -100).sum())
    assert report.num_labels + report.num_labels_dropped == given
    assert report.num_labels_dropped >= report.dropped + report.merged
    assert f"{100 * report.row_share:.1f} %" in str(report)


def test_a_model_that_is_its_own_base_says_so() -> None:
    """Llama 4 computes its logits in the same forward as its embeddings."""
    model = kinds.build("llama4")
    inputs = kinds.given(tiny.prompts(model, "llama4", (1,)))
    with foveate.attach(model, foveate.TokenCarve(keep_ratio=0.4)):
        with pytest.raises(UnsupportedModeError, match="cannot put rows back"):
            model(**inputs, labels=inputs["input_ids"])
        with pytest.raises(UnsupportedModeError, match="cannot put rows back"):
            model(**inputs, logits_to_keep=torch.tensor([-1, -2]))
