"""Attached memories: every way to call and generate gives what plain greedy reading gives."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GenerationConfig

from foveate.errors import AttachError, InputError, UnsupportedModeError
from foveate.text_image.render import Renderer
from foveate.vist.latents.memory import Memory, pack_pages, pad_memories
from foveate.vist.run import read_document
from tests.vist import tiny_vist
from tests.vist.tiny_vist import KINDS, TEXT, assert_close, ids, memory

NEW = 5

pytestmark = pytest.mark.usefixtures("without_gradient")


def batch_of(rows: list[Tensor]) -> dict[str, Tensor]:
    longest = max(len(row) for row in rows)
    pad = [torch.zeros(longest - len(row), dtype=torch.long) for row in rows]
    mask = [torch.cat([p, torch.ones_like(r)]) for p, r in zip(pad, rows, strict=True)]
    both = [torch.cat(pair) for pair in zip(pad, rows, strict=True)]
    return {"input_ids": torch.stack(both), "attention_mask": torch.stack(mask)}


def by_hand(vist: Any, mem: Memory | None, prompt: Tensor, at: int, new: int = NEW) -> Tensor:
    """Greedy tokens from full passes of `forward_train`: no cache, no hooks of a run."""
    row = prompt
    for _ in range(new):
        # One more token, to be scored; its id does not matter.
        longer = torch.cat([row, row[:1]])
        batch = pad_memories([mem]) if mem is not None else None
        scores = vist.forward_train(batch, longer[:at], longer[at:], score_last=1)
        row = torch.cat([row, scores.logits[0, -1].argmax()[None]])
    return row


@pytest.mark.parametrize("form", KINDS)
def test_ragged_batch_equals_reading_by_hand(llm: Any, form: str) -> None:
    vist = tiny_vist.vist(llm, form)
    mems = [memory(11, 40, 1), None, memory(5, 70, 2)]
    prompts = [ids(7, 1), ids(12, 2), ids(9, 3)]
    inputs = batch_of(prompts)
    with vist.attach(mems, memory_at=[1, 1, 3]) as run:
        got = llm.generate(**inputs, max_new_tokens=NEW, do_sample=False)
    for row, (mem, prompt, at) in enumerate(zip(mems, prompts, [1, 1, 3], strict=True)):
        assert torch.equal(got[row, -NEW:], by_hand(vist, mem, prompt, at)[-NEW:])
    assert run.report.num_tokens == (40, 0, 70)
    assert run.report.num_latents == (11, 0, 5)


@pytest.mark.parametrize("form", KINDS)
@pytest.mark.parametrize(
    "mode",
    [
        {"use_cache": False},
        {"num_beams": 3},
        {"num_beams": 1, "cache_implementation": "static"},
        {"prompt_lookup_num_tokens": 3},
        {"num_beams": 2, "num_return_sequences": 2, "use_cache": False},
    ],
    ids=lambda mode: "-".join(f"{k}={v}" for k, v in mode.items()),
)
def test_every_mode_equals_single_rows(llama: Any, form: str, mode: dict[str, Any]) -> None:
    vist = tiny_vist.vist(llama, form)
    mem, prompt = memory(9, 50), ids(8, 4)
    plain = {key: mode[key] for key in ("num_beams", "num_return_sequences") if key in mode}
    with vist.attach(mem):
        want = llama.generate(prompt[None], max_new_tokens=NEW, do_sample=False, **plain)
        got = llama.generate(prompt[None], max_new_tokens=NEW, do_sample=False, **mode)
    assert torch.equal(got, want)
    if not plain:
        assert torch.equal(got[0], by_hand(vist, mem, prompt, 1))


def test_beams_of_a_batch_equal_beams_alone(llama: Any) -> None:
    vist = tiny_vist.vist(llama, "lora")
    mems, prompts = [memory(9, 50, 1), memory(4, 20, 2)], [ids(8, 1), ids(6, 2)]
    how = {"max_new_tokens": NEW, "do_sample": False, "num_beams": 3, "num_return_sequences": 2}
    with vist.attach(mems):
        got = llama.generate(**batch_of(prompts), **how)
    for row, (mem, prompt) in enumerate(zip(mems, prompts, strict=True)):
        with vist.attach(mem):
            want = llama.generate(prompt[None], **how)
        assert torch.equal(got[2 * row : 2 * row + 2, -NEW:], want[:, -NEW:])


def test_sampling_and_many_sequences(llama: Any) -> None:
    vist = tiny_vist.vist(llama, "states")
    prompt = ids(8, 1)
    how = {"max_new_tokens": NEW, "do_sample": True}
    with vist.attach(memory(9, 50)):
        torch.manual_seed(5)
        got = llama.generate(prompt[None], **how, num_return_sequences=3)
        torch.manual_seed(5)
        want = llama.generate(prompt.repeat(3, 1), **how)
    assert torch.equal(got, want)


def test_assisted_generation_equals_greedy(llama: Any) -> None:
    vist = tiny_vist.vist(llama, "embeddings")
    assistant = tiny_vist.model("llama", num_hidden_layers=1)
    prompt = ids(8, 1)[None]
    with vist.attach(memory(9, 50)):
        want = llama.generate(prompt, max_new_tokens=10, do_sample=False)
        got = llama.generate(prompt, max_new_tokens=10, do_sample=False, assistant_model=assistant)
    assert torch.equal(got, want)


@pytest.mark.parametrize("form", KINDS)
def test_inputs_embeds_and_eager_give_the_same(form: str) -> None:
    logits = {}
    for attention in ("sdpa", "eager"):
        llm = tiny_vist.model(attention=attention)
        vist = tiny_vist.vist(llm, form)
        inputs = batch_of([ids(7, 1), ids(5, 2)])
        with vist.attach([memory(9, 50), memory(4, 20)]):
            logits[attention] = llm(**inputs).logits[:, -3:]
            embeds = llm.model.embed_tokens(inputs["input_ids"])
            again = llm(inputs_embeds=embeds, attention_mask=inputs["attention_mask"])
        assert_close(again.logits[:, -3:], logits[attention])
    assert_close(logits["eager"], logits["sdpa"])


@pytest.mark.parametrize("form", KINDS)
def test_other_embeds_are_another_head(llama: Any, form: str) -> None:
    vist, mem = tiny_vist.vist(llama, form), memory(9, 50)
    first, second = (llama.model.embed_tokens(ids(8, seed)[None]) for seed in (4, 5))
    with vist.attach(mem, memory_at=3):
        want = llama(inputs_embeds=second).logits
    with vist.attach(mem, memory_at=3):
        llama(inputs_embeds=first)
        assert torch.equal(llama(inputs_embeds=second).logits, want)


def test_what_is_no_memory_is_refused(llama: Any) -> None:
    vist, mem = tiny_vist.vist(llama), memory(9, 50)
    for memories in ("text", 5, [5], {"a": mem}, [[mem]]):
        with pytest.raises(InputError, match="for a memory; give what read or prefill returned"):
            vist.attach(memories)  # type: ignore[arg-type]
    for at in (1.5, "1", None, True):
        with pytest.raises(InputError, match="give a whole number"):
            vist.attach(mem, memory_at=at)  # type: ignore[arg-type]


@pytest.mark.parametrize("form", KINDS)
def test_chunked_prefill_and_a_second_turn(llama: Any, form: str) -> None:
    vist = tiny_vist.vist(llama, form)
    mem, prompt = memory(9, 50), ids(8, 4)[None]
    how = {"do_sample": False, "max_new_tokens": NEW}
    with vist.attach(mem, memory_at=2):
        first = llama.generate(prompt, **how, return_dict_in_generate=True)
        assert torch.equal(llama.generate(prompt, **how, prefill_chunk_size=3), first.sequences)
        more = torch.cat([first.sequences, ids(3, 9)[None]], dim=1)
        want = llama.generate(more, **how)
        first = llama.generate(prompt, **how, return_dict_in_generate=True)
        again = llama.generate(more, **how, past_key_values=first.past_key_values)
    assert torch.equal(again, want)


def test_cross_attention_goes_on_from_any_cache(llama: Any) -> None:
    vist = tiny_vist.vist(llama, "cross")
    prompt = ids(8, 4)[None]
    past = llama(prompt[:, :5], use_cache=True).past_key_values
    with vist.attach(memory(9, 50), memory_at=20):
        got = llama(prompt[:, 5:], past_key_values=past).logits
    assert got.shape[1] == 3


def test_a_prefix_can_be_attached(llama: Any) -> None:
    vist = tiny_vist.vist(llama, "lora")
    mem, prompt = memory(9, 50), ids(8, 1)
    prefix = vist.prefill(mem, prompt[:2])
    with vist.attach(mem, memory_at=2):
        want = llama(prompt[None]).logits
    with vist.attach(prefix, memory_at=2):
        assert torch.equal(llama(prompt[None]).logits, want)
        with pytest.raises(InputError, match="made for a head of 2 tokens"):
            llama(ids(8, 2)[None])
    two = vist.prefill([mem, None], prompt[:2])
    with vist.attach(two, memory_at=2):
        assert_close(llama(prompt.repeat(2, 1)).logits[:1], want)
    with pytest.raises(InputError, match="was made for the head"):
        vist.nll(two, ids(2, 9), ids(9), 4)
    with pytest.raises(InputError, match="2 memories, 3 heads and 3 tails"):
        vist.nll(two, [prompt[:2]] * 3, [ids(9)] * 3, 4)
    both = vist.nll(two, prompt[:2], prompt[2:], 4)
    assert_close(both, vist.nll([mem, None], prompt[:2], prompt[2:], 4))


def test_one_memory_for_many_questions_is_computed_once(
    llama: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    vist = tiny_vist.vist(llama, "lora")
    calls = []
    compute = type(vist).compute
    monkeypatch.setattr(
        type(vist), "compute", lambda *args, **kw: calls.append(1) or compute(*args, **kw)
    )
    questions = [torch.cat([ids(1, 9), ids(n, n)]) for n in (5, 9, 6)]
    with vist.attach(memory(9, 50)):
        for question in questions:
            llama.generate(question[None], max_new_tokens=2, use_cache=False)
        llama.generate(**batch_of(questions), max_new_tokens=2)
    assert len(calls) == 1


@pytest.mark.parametrize("form", KINDS)
def test_the_model_is_restored_also_after_an_exception(llm: Any, form: str) -> None:
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in llm.modules()]
    prompt = ids(8, 1)[None]
    want = llm(prompt).logits
    vist = tiny_vist.vist(llm, form)
    with pytest.raises(InputError, match="2 memories are attached and 1 prompts came"):  # noqa: SIM117
        with vist.attach([memory(9, 50)] * 2):
            llm(prompt)
    with vist.attach(memory(9, 50)):
        assert not torch.equal(llm(prompt).logits, want)
    assert torch.equal(llm(prompt).logits, want)
    assert "generate" not in llm.__dict__
    assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in llm.modules()] == hooks


def test_without_a_memory_it_is_the_base_model_bitwise(llm: Any) -> None:
    prompt = ids(8, 1)[None]
    want = llm(prompt).logits
    vist = tiny_vist.vist(llm)
    with vist.attach(None) as run:
        assert torch.equal(llm(prompt).logits, want)
    assert run.report is None
    scores = vist.forward_train(None, prompt[0, :1], prompt[0, 1:], score_last=7)
    assert torch.equal(scores.logits, want[:, :-1])


@pytest.mark.parametrize("form", KINDS)
def test_a_document_beyond_the_window_is_scaled(llm: Any, form: str) -> None:
    vist = tiny_vist.vist(llm, form)
    seen: list[float] = []
    rotary = llm.model.rotary_emb
    handle = rotary.register_forward_pre_hook(
        lambda m, args, kwargs: seen.append(
            float((args[1] if len(args) > 1 else kwargs["position_ids"]).max())
        ),
        with_kwargs=True,
    )
    try:
        with vist.attach(memory(30, 5000)) as run:
            out = llm.generate(ids(60, 1)[None], max_new_tokens=NEW, min_new_tokens=NEW)
    finally:
        handle.remove()
    assert out.shape[1] == 60 + NEW
    assert max(seen) < vist.window
    assert run.report.spans == (416,)  # 446 positions are left, in steps of 32
    assert run.report.is_scaled
    assert vist.report is run.report
    assert "5000 tokens -> 30 latents, positions scaled to 416 to fit the model's 512" in str(
        run.report
    )


@pytest.mark.parametrize("how", ["keyword", "position", "of the model"])
def test_a_generation_config_says_how_much_is_written(llama: Any, how: str) -> None:
    """Wherever it stands: positions are left for all that it lets the model write."""
    vist, prompt = tiny_vist.vist(llama, "lora"), ids(9, 1)[None]
    config = GenerationConfig(max_new_tokens=90, do_sample=False, pad_token_id=0)
    given: Any = {"keyword": ((), {"generation_config": config}), "position": ((config,), {})}
    if how == "of the model":  # what a config leaves open
        given[how] = ((GenerationConfig(do_sample=False),), {"max_length": 99})
    args, kwargs = given[how]
    with vist.attach(memory(30, 5000)) as run, warnings.catch_warnings():
        warnings.simplefilter("error")
        out = llama.generate(prompt, *args, **kwargs)
        want = llama.generate(prompt, max_new_tokens=90, do_sample=False)
    assert out.shape[1] == 9 + 90
    assert torch.equal(out, want)
    assert run.reports[0].spans == run.report.spans
    assert config.disable_compile is not True  # the caller's own stays as it was


def test_raw_text_that_fills_the_window_is_refused(llama: Any) -> None:
    vist = tiny_vist.vist(llama)
    with vist.attach(memory(30, 5000)):
        with pytest.raises(InputError, match=r"512 tokens .* leaves no room for a memory"):
            llama.generate(ids(500, 1)[None], max_new_tokens=12)
        llama(ids(500, 1)[None])


def test_what_cannot_be_read_is_refused(llama: Any) -> None:
    vist = tiny_vist.vist(llama)
    prompt = ids(8, 1)[None]
    with vist.attach([memory(9, 50), memory(3, 10)]):
        with pytest.raises(InputError, match="2 memories are attached and 3 prompts came"):
            llama(prompt.repeat(3, 1))
        with pytest.raises(AttachError, match=r"already runs Vist\(kv_prefix\)"):
            vist.attach(memory(9, 50))
        with pytest.raises(AttachError, match="detach it before scoring"):
            vist.nll(memory(9, 50), prompt[0, :1], prompt[0, 1:], 3)
    with (
        vist.attach(memory(9, 50), memory_at=8),
        pytest.raises(InputError, match="at least one token must come after the memory"),
    ):
        llama(prompt)
    past = llama(prompt, use_cache=True).past_key_values
    with (
        vist.attach(memory(9, 50)),
        pytest.raises(UnsupportedModeError, match="start from an empty cache"),
    ):
        llama(prompt[:, :1], past_key_values=past)
    with pytest.raises(InputError, match="leaves no raw token before the memory"):
        vist.attach(memory(9, 50), memory_at=0)
    with pytest.raises(InputError, match="latents have width 5 and this Vist reads 16"):
        vist.attach(Memory(latents=torch.zeros(2, 5), positions=torch.zeros(2), num_tokens=9))


def test_reading_a_document(llama: Any) -> None:
    vist = tiny_vist.vist(llama, local_bias="window")
    mem = vist.read(TEXT)
    words = len(TEXT.split())
    assert mem.num_tokens == words
    assert mem.num_pages == len(Renderer().render(TEXT))
    assert 8 * (mem.num_pages - 1) < mem.num_latents <= 8 * mem.num_pages
    assert bool((mem.positions.diff() >= 0).all())
    assert 0 <= float(mem.positions[0]) < words / mem.num_latents
    assert float(mem.positions[-1]) < words
    pieces = vist.read(TEXT[i : i + 50] for i in range(0, len(TEXT), 50))
    assert torch.equal(pieces.latents, mem.latents)
    assert torch.equal(pieces.positions, mem.positions)
    with vist.attach(mem):
        assert llama.generate(ids(5)[None], max_new_tokens=3).shape == (1, 8)
    for text in ("", []):
        with pytest.raises(InputError, match="the text is empty"):
            vist.read(text)


def test_a_long_document_is_drawn_in_parts(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    vist = tiny_vist.vist(llama, local_bias="window")
    text = " ".join([TEXT] * 45)
    whole = vist.read(text)
    assert whole.num_tokens == len(text.split())
    monkeypatch.setattr(read_document, "WHOLE_CHARS", 10_000)
    mem = vist.read(text)
    assert mem.num_pages == whole.num_pages == len(Renderer().render(text)) > 50
    assert torch.equal(mem.latents, whole.latents)
    # A part's last token may be cut in two.
    assert 0 <= mem.num_tokens - whole.num_tokens <= 2
    assert float((mem.positions - whole.positions).abs().max()) <= 2
    pieces = vist.read(text[i : i + 3000] for i in range(0, len(text), 3000))
    assert torch.equal(pieces.latents, whole.latents)
    assert float((pieces.positions - whole.positions).abs().max()) <= 3


def test_other_parts_refuse_a_memory(llama: Any) -> None:
    first, second = tiny_vist.vist(llama), tiny_vist.vist(llama)
    mem = first.read("a short text")
    assert second.nll(mem, ids(1), ids(5), 3).shape == (1,)
    with torch.no_grad():
        second.parts.resampler.cls.add_(1)
    with pytest.raises(InputError, match="made by other trained parts"):
        second.attach(mem)


def test_another_encoder_refuses_a_memory(llama: Any) -> None:
    vist = tiny_vist.vist(llama)
    mem = vist.read("a short text")
    with torch.no_grad():
        vist.encoder.weight.add_(1)
    with pytest.raises(InputError, match="made with another encoder"):
        vist.attach(mem)


def test_a_document_longer_than_the_configured_strips(llama: Any) -> None:
    vist = tiny_vist.vist(llama)
    vist.parts.config = dataclasses.replace(vist.config, max_pages=3)
    for text in (TEXT * 4, iter([TEXT] * 4), TEXT * 300):
        with pytest.raises(InputError, match="fills more than the 3 strips that this Vist reads"):
            vist.read(text)


@pytest.mark.parametrize("form", KINDS)
def test_white_patches_never_reach_the_answer(llama: Any, form: str) -> None:
    vist = tiny_vist.vist(llama, form, local_bias="window")
    strips = Renderer().render("a strip that is mostly white")
    mask = torch.from_numpy(strips.patch_mask)
    features = vist.encoder(torch.from_numpy(strips.pixels), mask)
    scores = []
    for white in (0.0, 1e20, float("nan")):
        shown = features.masked_fill(~mask.unsqueeze(-1), white)
        latents, keep, _ = vist.parts(shown, mask)
        batch = pack_pages(latents[None], keep[None], torch.zeros(1, 1, 8), [6])
        scores.append(vist.forward_train(batch, ids(1), ids(7), score_last=4).logits)
    assert torch.equal(scores[0], scores[1])
    assert torch.equal(scores[0], scores[2])


def test_kernels_that_cannot_hide_a_memory_are_refused(llama: Any) -> None:
    prefix, cross = tiny_vist.vist(llama, "states"), tiny_vist.vist(llama, "cross")
    kernel = llama.config._attn_implementation
    llama.config._attn_implementation_internal = "flash_attention_2"
    try:
        with pytest.raises(UnsupportedModeError, match="'flash_attention_2' cannot hide a memory"):
            prefix.attach(memory(3, 9))
        cross.attach(memory(3, 9)).detach()
    finally:
        llama.config._attn_implementation_internal = kernel
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in llama.modules())
