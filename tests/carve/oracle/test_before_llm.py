"""Prompts shortened before the decoder: the model's own decoder on less, in any kind of family."""

from __future__ import annotations

import copy
import functools
import threading
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

import foveate
from foveate.carve.check.before import before_logits
from foveate.carve.check.findings import _images as images_of
from foveate.carve.check.prompts import GREEDY, Prompts, fresh
from foveate.carve.engine.run import Run
from foveate.carve.methods.divprune import DivPrune
from foveate.errors import (
    CarvedCacheError,
    MethodError,
    UnsupportedModeError,
    UnsupportedModelError,
)
from foveate.models.anatomy import anatomy_of
from foveate.models.derive import decoder_of
from foveate.models.twin import build_twin, typical_config
from foveate.models.twin_rules import FIRST_SPECIAL_ID

# Plain, three-dimensional positions, windows and masks made before the decoder, deepstack, states.
ALSO_INSIDE = [
    "llava", "qwen2_5_vl", "gemma3", "paligemma", "qwen3_vl", "granite4_vision", "lfm2_vl",
    "qwen3_5",
]  # fmt: skip
ONLY_BEFORE = [
    "glm5_next", "qwen4_exp", "minimax_m3_vl", "unlimited_ocr", "inkling2", "inkling_mm_model",
]  # fmt: skip
FAMILIES = ALSO_INSIDE + ONLY_BEFORE
# Their positions are in rotary tables; the others count distances themselves.
ROTARY = [name for name in FAMILIES if name not in ("glm5_next", "inkling2", "inkling_mm_model")]
HALF = DivPrune(keep_ratio=0.4, prune_layer=0)
TOLERANCE = 1e-5


@functools.lru_cache(maxsize=len(FAMILIES))
def twin(name: str) -> Prompts:
    config = typical_config(name)
    try:
        model = build_twin(config, "sdpa")
    except UnsupportedModelError:  # has no sdpa
        model = build_twin(config, "eager")
    return Prompts(anatomy_of(model, with_explicit_mask=False))


def before(prompts: Prompts, method: foveate.Method = HALF) -> Run:
    return Run(prompts.model, method, cut="before_llm")


def text_of(logits: Tensor) -> Tensor:
    return logits[..., :FIRST_SPECIAL_ID]


def slow(prompts: Prompts, inputs: dict[str, Any], run: Run | None, **settings: Any) -> Tensor:
    images = images_of(run) if run is not None else []
    decoder = decoder_of(prompts.model)
    return text_of(before_logits(prompts.model, decoder, fresh(inputs), images, **settings))


def assert_close(got: Tensor, wanted: Tensor) -> None:
    got, wanted = got.detach(), wanted.detach()
    assert got.shape == wanted.shape
    gap = float((got - wanted).abs().max()) / max(1.0, float(wanted.abs().max()))
    assert gap < TOLERANCE, gap


@pytest.mark.parametrize("name", FAMILIES)
def test_equals_the_models_own_decoder(name: str) -> None:
    """Prefill and decoded tokens; the slow path would tell."""
    prompts = twin(name)
    inputs = prompts.batch((2,))
    with before(prompts) as run:
        out = prompts.generate(inputs)
        prefill = prompts.model(**fresh(inputs)).logits
    assert run.report is not None
    assert run.report.fired
    assert run.report.length_after < run.report.length_before
    assert set(run.report.rows_per_layer) == {run.report.length_after}
    got = text_of(torch.stack(out.logits, dim=1))
    steps = got.shape[1]
    longer = prompts.longer(inputs, out.sequences[:, :-1])
    wanted = slow(prompts, longer, run)[:, -steps:]
    assert_close(got, wanted)
    assert_close(text_of(prefill), slow(prompts, inputs, run))
    untouched = slow(prompts, longer, None)[:, -steps:]
    assert float((wanted - untouched).abs().max()) > 1e-3, "the slow path could not fail"
    if name in ROTARY:
        closed = slow(prompts, longer, run, keeps_positions=False)[:, -steps:]
        assert float((wanted - closed).abs().max()) > 1e-3, "positions do not matter"


@pytest.mark.parametrize("name", ["llava", "gemma3", "qwen3_vl", "granite4_vision", "glm5_next"])
def test_merging(name: str) -> None:
    """Features that layers add later are merged with their tokens."""
    prompts = twin(name)
    inputs = prompts.batch((1,))
    tome = Merging(keep_ratio=0.4, prune_layer=0)
    with before(prompts, tome) as run:
        got = prompts.model(**fresh(inputs)).logits
    assert run.report is not None
    assert run.report.images[0].merged
    assert_close(text_of(got), slow(prompts, inputs, run))


class Merging(foveate.Method):
    """Keeps the first tokens, and merges the next into the first."""

    name = "first-and-merge"

    def plan(self, visual: foveate.VisualTokens, keep: int) -> foveate.KeepPlan:
        count = visual.num_images
        return foveate.KeepPlan(
            num_tokens=visual.num_tokens,
            keep_idx=torch.arange(keep).expand(count, -1),
            merge_src=torch.full((count, 1), keep),
            merge_dst=torch.zeros(count, 1, dtype=torch.long),
        )


foveate.METHODS.pop(Merging.name)  # other tests list what there is


@pytest.mark.parametrize("name", FAMILIES)
def test_keeping_all_and_text_are_bitwise(name: str) -> None:
    prompts = twin(name)
    for items, keep in (((1, 2, 0), {"keep_ratio": 1.0}), ((0, 0), {"keep_tokens": 2})):
        inputs = prompts.batch(items)
        plain = prompts.generate(inputs)
        with before(prompts, DivPrune(prune_layer=0, **keep)) as run:
            carved = prompts.generate(inputs)
        assert run.report is not None
        assert not run.report.fired
        for a, b in zip(plain.logits, carved.logits, strict=True):
            assert torch.equal(text_of(a), text_of(b))


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "minimax_m3_vl"])
def test_a_row_of_a_batch_is_its_own_run(name: str) -> None:
    """Not of minimax_m3_vl, whose blocks are counted from a row's first column, padding or not."""
    prompts, items = twin(name), (1, 2, 0)
    with before(prompts) as run:
        together = prompts.generate(prompts.batch(items))
        kept = [(plan.span.sample, plan.plan.keep_idx.tolist()) for plan in run.plans]
        for row, count in enumerate(items):
            alone = prompts.generate(prompts.alone(items, row))
            own = [plan.plan.keep_idx.tolist() for plan in run.plans] if count else []
            assert own == [idx for sample, idx in kept if sample == row]
            for many, one in zip(together.logits, alone.logits, strict=True):
                assert_close(text_of(many[row]), text_of(one[0]))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_second_turn_goes_on_with_the_cache(name: str) -> None:
    """Text behind a shortened prompt, several tokens at once, at its original positions."""
    prompts = twin(name)
    model, inputs = prompts.model, prompts.batch((1,))
    ids, length = torch.tensor([[5, 6, 7]]), inputs["input_ids"].shape[1]
    cache = DynamicCache(config=model.config)
    with before(prompts) as run, torch.no_grad():
        model(**fresh(inputs), past_key_values=cache)
        assert cache.get_seq_length() == length
        got = model(input_ids=ids, past_key_values=cache).logits
        assert cache.get_seq_length() == length + 3
    wanted = slow(prompts, prompts.longer(inputs, with_ids(inputs, ids)), run)[:, -3:]
    assert_close(text_of(got), wanted)


def with_ids(inputs: dict[str, Any], ids: Tensor) -> Tensor:
    return torch.cat([inputs["input_ids"], ids], dim=1)


@pytest.mark.parametrize("name", FAMILIES)
def test_without_a_cache(name: str) -> None:
    prompts = twin(name)
    inputs = prompts.batch((2,))
    with before(prompts):
        cached = prompts.generate(inputs)
    prompts_of = {**fresh(inputs), "use_cache": False}
    with before(prompts):
        uncached = prompts.model.generate(**prompts_of, **GREEDY)
    assert torch.equal(cached.sequences, uncached.sequences)
    assert_close(
        text_of(torch.stack(uncached.logits, dim=1)), text_of(torch.stack(cached.logits, dim=1))
    )


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "gemma3", "qwen3_5"])
def test_beams_of_one_prompt(name: str) -> None:
    """Beam search reorders the cache: each beam's tokens must have its own slow path's scores."""
    prompts = twin(name)
    inputs = prompts.batch((2,))
    settings = {**GREEDY, "num_beams": 3, "num_return_sequences": 3, "max_new_tokens": 4}
    settings["output_scores"] = True
    with before(prompts) as run:
        out = prompts.model.generate(**fresh(inputs), **settings)
    length, first = inputs["input_ids"].shape[1], out.sequences[:1]
    longer = fresh(prompts.longer(inputs, first))
    logits = before_logits(prompts.model, decoder_of(prompts.model), longer, images_of(run))
    logits = logits[:, length - 1 - longer["input_ids"].shape[1] :]
    chosen = first[0, length:]
    scores = logits[0, : len(chosen)].log_softmax(-1).gather(1, chosen[:, None]).sum()
    assert out.sequences_scores[0] * len(chosen) == pytest.approx(float(scores), abs=1e-4)


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "gemma3", "minimax_m3_vl"])
def test_prompt_lookup_equals_greedy(name: str) -> None:
    """Guesses are cropped off a shortened cache again."""
    prompts = twin(name)
    inputs = prompts.batch((1,))
    settings = {**GREEDY, "max_new_tokens": 12}
    with before(prompts):
        plain = prompts.model.generate(**fresh(inputs), **settings)
        guessed = prompts.model.generate(
            **fresh(inputs), **settings, prompt_lookup_num_tokens=3, max_matching_ngram_size=1
        )
    assert torch.equal(plain.sequences, guessed.sequences)


@pytest.mark.parametrize("name", ["qwen2_5_vl", "glm5_next"])
def test_threads(name: str) -> None:
    prompts = twin(name)
    requests = [prompts.batch(items) for items in ((1,), (2,), (1, 2), (0,))] * 3
    with before(prompts):
        serial = [prompts.model(**fresh(one)).logits for one in requests[:4]] * 3
        found: dict[int, Any] = {}

        def ask(place: int) -> None:
            with torch.no_grad():
                found[place] = prompts.model(**fresh(requests[place])).logits

        threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(requests))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(found) == len(requests)
    for place, logits in found.items():
        assert_close(text_of(logits), text_of(serial[place]))


@pytest.mark.parametrize("name", ["llava", "unlimited_ocr", "minimax_m3_vl", "lfm2_vl"])
def test_a_shortened_cache_is_not_continued_unseen(name: str) -> None:
    prompts = twin(name)
    inputs = prompts.batch((1,))
    step = {"input_ids": torch.tensor([[5]])}
    with before(prompts), torch.no_grad():
        cache = prompts.model(**fresh(inputs), use_cache=True).past_key_values
        other = copy.deepcopy(cache)
    with pytest.raises(CarvedCacheError, match="without the hooks"):
        prompts.model(**step, past_key_values=cache)
    with before(prompts), pytest.raises(CarvedCacheError, match="half-way"):
        prompts.model(**step, past_key_values=cache)
    with before(prompts), torch.no_grad():  # the copy was not touched
        prompts.model(**step, past_key_values=other)
    with pytest.raises(UnsupportedModeError, match="lose their positions"):
        list(other)
    with pytest.raises(UnsupportedModeError, match="generated tokens only"):
        other.crop(2 - other.get_seq_length())
    other.reset()
    assert type(other).__name__ == "DynamicCache"


@pytest.mark.parametrize("window", [3, 4])
def test_a_window_behind_the_prompt_starts_behind_the_shorter_one(window: int) -> None:
    """unlimited_ocr keeps the prompt and slides over what follows: it is told the length first."""
    config = typical_config("unlimited_ocr")
    model = build_twin(config, "sdpa")
    model.config.text_config.sliding_window = window
    model.model.language_model.config.sliding_window = window
    prompts = Prompts(anatomy_of(model, with_explicit_mask=False))
    inputs = prompts.batch((2,))
    with before(prompts) as run:
        out = model.generate(**fresh(inputs), **{**GREEDY, "max_new_tokens": 12})
    got = text_of(torch.stack(out.logits, dim=1))
    decoder = decoder_of(model)
    length = inputs["input_ids"].shape[1]
    assert_close(got, windowed(prompts, decoder, inputs, out.sequences[:, :-1], run, length))


def windowed(
    prompts: Prompts, decoder: Any, inputs: dict[str, Any], ids: Tensor, run: Run, length: int
) -> Tensor:
    """Token by token through a plain cache that a shorter prompt filled, hooks of our own."""
    columns = torch.ones(length, dtype=torch.bool)
    for _, tokens, kept, _, _ in images_of(run):
        columns[tokens] = False
        columns[tokens[kept]] = True

    def shorter(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        positions = torch.arange(length)[None, columns]
        return (), {
            **kwargs,
            "inputs_embeds": kwargs["inputs_embeds"][:, columns],
            "position_ids": positions,
            "attention_mask": torch.ones(1, int(columns.sum()), dtype=torch.long),
        }

    handle = decoder.register_forward_pre_hook(shorter, with_kwargs=True)
    with torch.no_grad():
        out = prompts.model(**fresh(inputs), use_cache=True)
        handle.remove()
        logits = [out.logits[:, -1:]]
        for place in range(length, ids.shape[1]):
            out = prompts.model(
                input_ids=ids[:, place : place + 1],
                position_ids=torch.tensor([[place]]),
                past_key_values=out.past_key_values,
            )
            logits.append(out.logits)
    return text_of(torch.cat(logits, dim=1))


def test_labels_are_those_that_are_left() -> None:
    prompts = twin("glm5_next")
    inputs = prompts.batch((1,))
    labels = inputs["input_ids"].clone()
    labels[labels >= FIRST_SPECIAL_ID] = -100
    with before(prompts) as run:
        out = prompts.model(**fresh(inputs), labels=labels)
    wanted = slow_loss(prompts, inputs, labels, run)
    assert run.report is not None
    assert run.report.num_labels
    assert float(out.loss.detach()) == pytest.approx(float(wanted.detach()), rel=1e-5)


def slow_loss(prompts: Prompts, inputs: dict[str, Any], labels: Tensor, run: Run) -> Tensor:
    decoder = decoder_of(prompts.model)
    logits = before_logits(prompts.model, decoder, fresh(inputs), images_of(run))[0]
    stays = torch.ones(labels.shape[1], dtype=torch.bool)
    for _, tokens, kept, _, _ in images_of(run):
        stays[tokens] = False
        stays[tokens[kept]] = True
    follows = torch.nn.functional.pad(labels[0, 1:], (0, 1), value=-100)[stays]
    return torch.nn.functional.cross_entropy(logits, follows)


def test_attach_takes_this_way_by_itself() -> None:
    prompts = twin("glm5_next")
    inputs = prompts.batch((1,))
    with foveate.attach(prompts.model, HALF) as run:
        got = prompts.generate(inputs)
    assert run.cut == "before_llm"
    with before(prompts):
        wanted = prompts.generate(inputs)
    assert torch.equal(got.sequences, wanted.sequences)


@pytest.mark.parametrize(
    ("method", "error", "said"),
    [
        ("tokencarve", UnsupportedModelError, "indexer's blocks would shift.*divprune"),
        ("uniform", UnsupportedModelError, "at layer 2"),
        ("divprune(positions=renumbered)", MethodError, "positions='original'"),
    ],
)
def test_methods_that_act_later_are_refused(method: str, error: type, said: str) -> None:
    with pytest.raises(error, match=f"(?s){said}"):
        foveate.attach(twin("glm5_next").model, method, keep="50%")
    foveate.attach(twin("glm5_next").model, "uniform(prune_layer=0)", keep="50%").detach()


def test_the_baseline_of_comparisons_attaches() -> None:
    prompts = twin("glm5_next")
    inputs = prompts.batch((1,))
    plain = prompts.generate(inputs)
    with foveate.attach(prompts.model, foveate.method("noop", keep_tokens=3)) as run:
        kept = prompts.generate(inputs)
    assert run.report is not None
    assert not run.report.fired
    for a, b in zip(plain.logits, kept.logits, strict=True):
        assert torch.equal(text_of(a), text_of(b))


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
def test_a_static_cache_is_refused(name: str) -> None:
    prompts = twin(name)
    inputs = prompts.batch((1,))
    with before(prompts), pytest.raises(UnsupportedModeError, match="fixed size"):
        prompts.model.generate(
            **fresh(inputs), **GREEDY, cache_implementation="static", disable_compile=True
        )


@pytest.mark.parametrize("name", ["llava", "glm5_next"])
def test_a_conversation_goes_on_in_generate(name: str) -> None:
    prompts = twin(name)
    model, inputs = prompts.model, prompts.batch((1,))
    with before(prompts) as run:
        first = prompts.generate(inputs)
        ids = with_ids({"input_ids": first.sequences}, torch.tensor([[7, 8, 9]]))
        more = {"attention_mask": torch.ones_like(ids), "past_key_values": first.past_key_values}
        second = model.generate(input_ids=ids, **more, **GREEDY)
        assert run.plans
    longer = prompts.longer(inputs, second.sequences[:, :-1])
    with before(prompts) as run:
        prompts.model(**fresh(inputs))
    wanted = slow(prompts, longer, run)[:, -len(second.logits) :]
    assert_close(text_of(torch.stack(second.logits, dim=1)), wanted)


def test_embeddings_marked_by_the_caller() -> None:
    prompts = twin("llava")
    model, inputs = prompts.model, prompts.batch((1,))
    ids = inputs["input_ids"]
    mask = ids == model.config.image_token_id
    with torch.no_grad():
        embeds = model.get_input_embeddings()(ids)
        features = model.model.get_image_features(inputs["pixel_values"]).pooler_output
        embeds[mask] = torch.cat(list(features))
        with before(prompts) as run:
            wanted = model(**fresh(inputs)).logits
        with Run(model, HALF, visual_mask=mask, cut="before_llm") as marked:
            got = model(inputs_embeds=embeds, attention_mask=inputs["attention_mask"]).logits
    assert marked.report is not None
    assert marked.report.fired
    assert run.report is not None
    assert torch.equal(got, wanted)


def test_a_mask_of_the_callers_own() -> None:
    """Four dimensions are narrowed; a wrong length is refused."""
    prompts = twin("llava")
    inputs = fresh(prompts.batch((1,)))
    length = inputs["input_ids"].shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()[None, None]
    with before(prompts), torch.no_grad():
        wanted = prompts.model(**inputs).logits
        got = prompts.model(**{**inputs, "attention_mask": causal}).logits
        assert_close(text_of(got), text_of(wanted))
        with pytest.raises(UnsupportedModeError, match="attention mask"):
            prompts.model(**{**inputs, "attention_mask": torch.ones(1, length + 1)})


def test_a_decoder_called_past_the_model_is_refused() -> None:
    prompts = twin("llava")
    with before(prompts), pytest.raises(UnsupportedModeError, match="past LlavaModel"):
        prompts.model.model.language_model(inputs_embeds=torch.zeros(1, 4, 48))
