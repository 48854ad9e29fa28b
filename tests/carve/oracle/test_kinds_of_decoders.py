"""Decoders with states, reused keys, several streams, indexers: the fast path equals a slow one."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import foveate
from tests import tiny_kinds as kinds
from tests import tiny_vlm as tiny
from tests.carve.oracle.masked import masked_logits
from tests.carve.oracle.short import short_logits
from tests.carve.oracle.test_pruned_equals_masked import (
    GREEDY,
    assert_close,
    extended,
    method_for,
    plans_of,
)

# A random model may say a placeholder, which the slow path would take for an image.
SPOKEN = {**GREEDY, "suppress_tokens": list(range(88, tiny.VOCAB))}
RAGGED = (1, 2, 0)
ATTENDING = [name for name in kinds.KINDS if name not in kinds.STATEFUL]

# Which keys a query looks at is chosen among those that are left; cut without reading attention.
INDEXED = ["mistral_large4", "mistral_large4_shared"]


def generated(model: Any, inputs: dict[str, Any]) -> Any:
    return model.generate(**kinds.given(inputs), **SPOKEN)


def cut(name: str, **settings: Any) -> foveate.Method:
    layer = tiny.family_of(name).first_layer
    if name in INDEXED:
        return foveate.DivPrune(keep_ratio=0.4, prune_layer=2, **settings)
    return method_for(name, **settings, **({"prune_layer": layer} if layer else {}))


@pytest.mark.parametrize("num_images", [(1,), RAGGED], ids=["single", "ragged"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ATTENDING)
def test_pruned_equals_masked(name: str, attention: str, num_images: tuple[int, ...]) -> None:
    model = kinds.build(name, attention)
    inputs = tiny.prompts(model, name, num_images)
    length = inputs["input_ids"].shape[1]
    with foveate.attach(model, cut(name)) as run:
        out = generated(model, inputs)
    assert run.report is not None
    assert run.report.fired
    assert run.report.kv_bytes < run.report.kv_bytes_uncompressed  # type: ignore[operator]
    grown = extended(inputs, out.sequences[:, :-1])
    slow, untouched = (
        masked_logits(model, kinds.given(grown), plans, run.prune_layer, length)[:, length - 1 :]
        for plans in (plans_of(run), [])
    )
    assert_close(torch.stack(out.logits, dim=1), slow)
    gap = (slow - untouched)[torch.tensor(num_images) > 0].abs().max()
    assert gap > 1e-3, "the oracle cannot tell pruned from full: the test would pass on anything"


@pytest.mark.parametrize("prune_layer", [2, 3])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", kinds.STATEFUL)
def test_short_sequence(name: str, attention: str, prune_layer: int) -> None:
    """Cuts before a layer with a state, and before one that attends."""
    model = kinds.build(name, attention)
    inputs = tiny.prompts(model, name, (1,))
    length = inputs["input_ids"].shape[1]
    with foveate.attach(model, cut(name, prune_layer=prune_layer)) as run:
        out = generated(model, inputs)
    assert run.report is not None
    assert run.report.kv_bytes < run.report.kv_bytes_uncompressed  # type: ignore[operator]
    grown = extended(inputs, out.sequences[:, :-1])
    short, untouched = (
        short_logits(model, kinds.given(grown), plans, prune_layer, length)[:, -len(out.logits) :]
        for plans in (plans_of(run), [])
    )
    assert_close(torch.stack(out.logits, dim=1), short)
    assert (short - untouched).abs().max() > 1e-4, "the oracle cannot tell pruned from full"


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
def test_short_sequence_of_plain_decoders(name: str) -> None:
    """The oracle itself: where tokens can be masked, it says the same."""
    model = tiny.build(name)
    inputs = tiny.prompts(model, name, (1,))
    length = inputs["input_ids"].shape[1]
    with foveate.attach(model, method_for(name)) as run:
        out = generated(model, inputs)
    grown = extended(inputs, out.sequences[:, :-1])
    short = short_logits(model, grown, plans_of(run), run.prune_layer, length)
    masked = masked_logits(model, grown, plans_of(run), run.prune_layer, length)
    assert_close(short[:, -len(out.logits) :], masked[:, length - 1 :])


@pytest.mark.parametrize("name", kinds.KINDS)
def test_batch_row_equals_single_run(name: str) -> None:
    model = kinds.build(name)
    inputs = tiny.prompts(model, name, RAGGED)
    with foveate.attach(model, cut(name)) as run:
        batch = generated(model, inputs)
        plans = run.plans
        for sample, count in enumerate(RAGGED):
            alone = generated(model, kinds.alone(inputs, model, name, sample, RAGGED))
            assert run.report is not None
            assert run.report.fired == bool(count)
            kept = [p.plan.keep_idx.tolist() for p in plans if p.span.sample == sample and p.plan]
            if count:
                assert kept == [p.plan.keep_idx.tolist() for p in run.plans if p.plan]
            for a, b in zip(batch.logits, alone.logits, strict=True):
                said = slice(0, SPOKEN["suppress_tokens"][0])
                assert_close(a[sample, said], b[0, said], 2e-5)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", kinds.KINDS)
def test_off_is_bitwise(name: str, attention: str) -> None:
    """With everything kept, and without an image."""
    model = kinds.build(name, attention)
    for num_images, settings in ((RAGGED, {"keep_ratio": 1.0}), ((0, 0), {"keep_tokens": 2})):
        inputs = tiny.prompts(model, name, num_images)
        plain = generated(model, inputs)
        chosen = cut(name)
        method = type(chosen)(**settings, prune_layer=chosen.steps(5, 0)[0].layer)
        with foveate.attach(model, method) as run:
            carved = generated(model, inputs)
        assert run.report is not None
        assert not run.report.fired
        for a, b in zip(plain.logits, carved.logits, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("name", ["qwen3_5", "gemma3n", *INDEXED])
def test_without_a_cache(name: str) -> None:
    """Each step feeds the prompt again; it must say what the cached one says."""
    model = kinds.build(name)
    inputs = tiny.prompts(model, name, RAGGED)
    with foveate.attach(model, cut(name)):
        cached = generated(model, inputs)
        fed_again = model.generate(**kinds.given(inputs), **SPOKEN, use_cache=False)
    said = slice(0, SPOKEN["suppress_tokens"][0])
    for a, b in zip(cached.logits, fed_again.logits, strict=True):
        assert_close(a[:, said], b[:, said], 2e-5)


# Qwen3.5 itself makes rotary tables of the whole prompt for several tokens after a cache.
@pytest.mark.parametrize("name", ["lfm2_vl", "gemma4", "gemma3n", *INDEXED])
def test_second_turn(name: str) -> None:
    """A carved cache goes on with several tokens at once: as one token after the other."""
    model = kinds.build(name)
    inputs = kinds.given(tiny.prompts(model, name, (1,)))
    more = torch.tensor([[5, 6, 7, 8]])

    def turn(pieces: list[torch.Tensor]) -> torch.Tensor:
        cache = model(**kinds.given(inputs), use_cache=True).past_key_values
        seen, found = inputs["attention_mask"], []
        for piece in pieces:
            seen = torch.cat([seen, torch.ones_like(piece)], dim=1)
            step = model(input_ids=piece, attention_mask=seen, past_key_values=cache)
            found.append(step.logits)
        return torch.cat(found, dim=1)

    with foveate.attach(model, cut(name)) as run, torch.no_grad():
        together = turn([more])
        one_by_one = turn(list(more.split(1, dim=1)))
        assert run.reports[0].fired
    assert_close(together, one_by_one, 2e-5)


@pytest.mark.parametrize("name", ["qwen3_5", "lfm2_vl", "gemma4", *INDEXED])
def test_beams(name: str) -> None:
    """Beams reorder what a cache holds, whatever that is; without one there is nothing to."""
    model = kinds.build(name)
    inputs = tiny.prompts(model, name, (1, 1))
    beams = {**SPOKEN, "num_beams": 3, "max_new_tokens": 6, "output_scores": True}
    with foveate.attach(model, cut(name)) as run:
        cached = model.generate(**kinds.given(inputs), **beams)
        assert run.report is not None
        assert run.report.fired
        fed_again = model.generate(**kinds.given(inputs), **beams, use_cache=False)
    plain = model.generate(**kinds.given(inputs), **beams)
    assert torch.equal(cached.sequences, fed_again.sequences)
    assert_close(cached.sequences_scores, fed_again.sequences_scores)
    gap = (cached.sequences_scores - plain.sequences_scores).abs().max()
    assert gap > 1e-4, "beams are the same without a cut: the test would pass on anything"


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", INDEXED)
def test_reading_attention_leaves_sparse_attention_sparse(name: str, attention: str) -> None:
    """Such models look at the kernel's name before they hide what the indexer did not choose."""
    model = kinds.build(name, attention)
    inputs = tiny.prompts(model, name, (0, 0))
    inputs = {key: torch.cat([value, value, value], dim=1) for key, value in inputs.items()}
    topk = model.base_model.language_model.config.index_topk
    assert inputs["input_ids"].shape[1] > topk, "nothing would be hidden"
    plain = generated(model, inputs)
    for method in ("tokencarve", "fastv", "sparsevlm", "pyramiddrop"):
        with foveate.attach(model, foveate.method(method, keep_tokens=2)):
            carved = generated(model, inputs)
        for a, b in zip(plain.logits, carved.logits, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("num_shared", [0, 2])
def test_as_many_last_logits_as_were_asked_for(num_shared: int) -> None:
    """Gemma 4 takes hidden states that are shorter than the prompt for cut to `logits_to_keep`."""
    config = kinds.gemma4_config()
    config.text_config.num_kv_shared_layers = num_shared
    model = type(kinds.build("gemma4"))(config).eval()
    inputs = tiny.prompts(kinds.build("gemma4"), "gemma4", (1,))
    with foveate.attach(model, foveate.DivPrune(keep_ratio=0.4, prune_layer=2)), torch.no_grad():
        every = model(**kinds.given(inputs)).logits
        for count in (1, 2):
            last = model(**kinds.given(inputs), logits_to_keep=count).logits
            torch.testing.assert_close(last, every[:, -count:], atol=1e-5, rtol=1e-5)
