"""Looking again: all as text is raw text, nothing is today's memory, every mode and batch agree."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from foveate.errors import ConfigError, InputError, UnsupportedModeError
from foveate.vist.fixation.attention import question_attention
from foveate.vist.fixation.look import Fixation, Looker
from foveate.vist.fixation.placing import mixed, read_again, segment_of_latents
from foveate.vist.fusion.fusion import PrefixCache
from foveate.vist.latents.memory import UNREAD, Memory, concat
from tests.vist import tiny_vist
from tests.vist.run.test_attached import batch_of
from tests.vist.tiny_vist import assert_close, ids

NEW = 5


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def llama() -> Any:
    return tiny_vist.model()


def known(num_latents: int, num_tokens: int, seed: int = 0, every: int = 6) -> Memory:
    """A random memory that knows its text, in segments of `every` tokens."""
    bare = tiny_vist.memory(num_latents, num_tokens, seed)
    return Memory(
        latents=bare.latents,
        positions=bare.positions,
        num_tokens=num_tokens,
        tokens=ids(num_tokens, seed + 50),
        segments=torch.arange(0, num_tokens, every),
    )


def said(tokens: Tensor) -> str:
    return " ".join(f"w{i}" for i in tokens.tolist())


@pytest.mark.parametrize("family", ["llama", "qwen3", "smollm3"])
@pytest.mark.parametrize("form", ["embeddings", "lora"])
def test_everything_looked_at_is_raw_text(family: str, form: str) -> None:
    llm = tiny_vist.model(family)
    vist, mem, prompt = tiny_vist.vist(llm, form), known(9, 40), ids(9, 3)
    assert mem.tokens is not None
    whole = torch.cat([prompt[:2], mem.tokens, prompt[2:]])
    want = llm(whole[None]).logits[0, -7:]
    said_whole = llm.generate(whole[None], max_new_tokens=NEW, do_sample=False)[0, -NEW:]
    with vist.attach(mem, memory_at=2, fixate=1.0) as run:
        assert_close(llm(prompt[None]).logits[0, -7:], want)
        got = llm.generate(prompt[None], max_new_tokens=NEW, do_sample=False)[0, -NEW:]
    assert torch.equal(got, said_whole)
    assert run.report.looks[0].num_raw == 40
    assert run.report.num_latents == (0,)
    with vist.attach(mem, memory_at=2):  # the control: latents are not raw text
        assert not torch.allclose(llm(prompt[None]).logits[0, -7:], want, atol=1e-2)


def test_nothing_looked_at_is_the_memory_as_it_was(llama: Any) -> None:
    vist, mem, prompt = tiny_vist.vist(llama, "lora"), known(9, 40), ids(9, 3)[None]
    with vist.attach(mem):
        want = llama(prompt).logits
    with vist.attach(mem, fixate=0) as run:
        assert torch.equal(llama(prompt).logits, want)
        assert run.report.looks == (None,)
    # A budget that no segment fits, and every latent does.
    with vist.attach(known(3, 40, every=40), fixate=0.1) as run:
        got = llama(prompt).logits
    assert (run.report.looks[0].num_raw, run.report.num_latents) == (0, (3,))
    with vist.attach(known(3, 40, every=40)):
        assert_close(got, llama(prompt).logits)


def test_the_mixed_memory_keeps_order_and_budget() -> None:
    mem = known(12, 60)
    row = mixed(mem, [2, 7], 18)
    assert row.tokens is not None
    assert mem.tokens is not None
    raw = row.tokens[0] != UNREAD
    assert row.positions[0][raw].tolist() == [*range(12, 18), *range(42, 48)]
    assert torch.equal(row.tokens[0][raw], mem.tokens[row.positions[0][raw].long()])
    assert int(row.mask.sum()) <= 18
    assert bool((row.positions[0].diff() >= 0).all())
    left = row.positions[0][~raw]
    assert not set((left // 6).long().tolist()) & {2, 7}
    everything = mixed(mem, [2, 7], 60)
    outside = ~torch.isin(segment_of_latents(mem), torch.tensor([2, 7]))
    assert torch.equal(everything.latents[0][everything.tokens[0] == UNREAD], mem.latents[outside])


def test_places_are_read_again_behind_all_of_them() -> None:
    mem = known(12, 60)
    assert mem.tokens is not None
    mem.tokens[13] = UNREAD
    row = mixed(mem, [2, 7], 12)
    more = read_again(row, mem, [7, 2])
    assert row.tokens is not None
    assert more.tokens is not None
    count = row.tokens.shape[1]
    assert torch.equal(more.tokens[:, :count], row.tokens)
    assert torch.equal(more.latents[:, :count], row.latents)
    again = [12, 14, 15, 16, 17, *range(42, 48)]  # in reading order, without what is unread
    assert more.tokens[0, count:].tolist() == mem.tokens[again].tolist()
    assert more.positions[0, count:].tolist() == again
    assert bool(more.mask.all())
    assert read_again(row, mem, []).tokens.shape == row.tokens.shape  # type: ignore[union-attr]


@pytest.mark.parametrize(("share", "again"), [(0.2, 6), (0.15, 0), (0.1, 0)])
def test_a_place_is_read_twice_where_the_budget_has_room(
    llama: Any, share: float, again: int
) -> None:
    vist, mem = tiny_vist.vist(llama, "lora"), known(12, 60)
    assert mem.tokens is not None
    mem.tokens[12:18] = torch.tensor([90, 91, 92, 93, 94, 95])
    words = said(mem.tokens[12:18])
    looks = {}
    for placing in ("twice", "close"):
        fixation = Fixation(share=share, floor=1.0, placing=placing)
        with vist.attach(mem, fixate=fixation, question=words) as run:
            logits = llama(ids(5)[None]).logits
        looks[placing] = (run.report.looks[0], logits)
    look = looks["twice"][0]
    assert (look.num_raw, look.num_again) == (6 + again, again)
    assert look.num_entries <= look.budget == int(share * 60)
    assert torch.equal(looks["twice"][1], looks["close"][1]) is not bool(again)
    assert ("6 of them a second time" in str(look)) is bool(again)


def test_the_segment_with_the_questions_words_is_looked_at(llama: Any) -> None:
    vist, mem = tiny_vist.vist(llama, "lora"), known(20, 60)
    assert mem.tokens is not None
    rare = next(i for i in range(60) if (mem.tokens == mem.tokens[i]).sum() == 1)
    prompt = torch.cat([ids(2, 9), mem.tokens[rare : rare + 1]])[None]
    with vist.attach(mem, fixate=0.2, memory_at=2) as run:
        llama.generate(prompt, max_new_tokens=2)
    look = run.report.looks[0]
    assert look.question == said(prompt[0, 2:])
    best = min(look.places, key=lambda place: place.rank)
    assert best.start <= rare < best.stop
    assert look.num_entries <= look.budget == 12
    assert look.num_raw - look.num_again == sum(p.stop - p.start for p in look.places)
    assert look.num_again == (6 if look.num_raw > 6 else 0)
    assert best.text == said(mem.tokens[best.start : best.stop])
    assert best.score == pytest.approx(sum(best.parts.values()))
    assert f"60 tokens -> {look.num_latents} latents + {look.num_raw} tokens" in str(run.report)
    assert "(words 1.00, attention" in str(run.report)
    assert look.to_dict()["places"][0]["segment"] == look.places[0].segment


def test_unread_tokens_are_left_out_and_counted(llama: Any) -> None:
    vist, mem = tiny_vist.vist(llama, "lora"), known(9, 40)
    assert mem.tokens is not None
    mem.tokens[3:5] = UNREAD
    with vist.attach(mem, fixate=1.0) as run:
        llama(ids(9, 3)[None])
    look = run.report.looks[0]
    assert (look.num_raw, look.num_unread) == (38, 2)
    assert "2 tokens there could not be read" in str(look)


@pytest.mark.parametrize(
    "mode",
    [
        {"use_cache": False},
        {"num_beams": 3},
        {"cache_implementation": "static"},
        {"prompt_lookup_num_tokens": 3},
        {"prefill_chunk_size": 3},
        {"num_beams": 2, "num_return_sequences": 2, "use_cache": False},
        {"assistant_model": "tiny"},
    ],
    ids=lambda mode: "-".join(f"{k}={v}" for k, v in mode.items()),
)
def test_every_mode_looks_at_the_same(llama: Any, mode: dict[str, Any]) -> None:
    vist, mem, prompt = tiny_vist.vist(llama, "lora"), known(12, 50), ids(8, 4)[None]
    if "assistant_model" in mode:
        mode = {"assistant_model": tiny_vist.model("llama", num_hidden_layers=1)}
    plain = {key: mode[key] for key in ("num_beams", "num_return_sequences") if key in mode}
    how = {"max_new_tokens": NEW, "do_sample": False}
    with vist.attach(mem, fixate=0.3) as run:
        want = llama.generate(prompt, **how, **plain)
        first = run.report.looks
        got = llama.generate(prompt, **how, **mode)
    assert torch.equal(got, want)
    assert {look.question for look in (*first, *run.report.looks)} == {said(prompt[0, 1:])}
    segments = {tuple(p.segment for p in look.places) for look in (*first, *run.report.looks)}
    assert len(segments) == 1


def test_a_batch_equals_single_rows(llama: Any) -> None:
    vist = tiny_vist.vist(llama, "lora")
    mems = [known(12, 50, 1), None, known(5, 70, 2)]
    prompts = [ids(7, 1), ids(12, 2), ids(9, 3)]
    how = {"max_new_tokens": NEW, "do_sample": False}
    with vist.attach(mems, fixate=0.3) as run:
        got = llama.generate(**batch_of(prompts), **how)
        looks = run.report.looks
        logits = llama(**batch_of(prompts)).logits[:, -1]
    assert [look is None for look in looks] == [False, True, False]
    for row, (mem, prompt) in enumerate(zip(mems, prompts, strict=True)):
        with vist.attach(mem, fixate=0.3) as run:
            assert torch.equal(llama.generate(prompt[None], **how)[0, -NEW:], got[row, -NEW:])
            assert_close(llama(prompt[None]).logits[0, -1], logits[row])
        if mem is not None:
            assert [p.segment for p in run.report.looks[0].places] == [
                p.segment for p in looks[row].places
            ]


def test_one_memory_for_many_questions(llama: Any) -> None:
    vist, mem = tiny_vist.vist(llama, "lora"), known(12, 60)
    assert mem.tokens is not None
    prompts = [torch.cat([ids(1, 9), mem.tokens[i : i + 3]]) for i in (7, 31)]
    with vist.attach(mem, fixate=0.2) as run:
        llama(**batch_of(prompts))
        places = [[place.segment for place in look.places] for look in run.report.looks]
    assert places[0] != places[1]
    with vist.attach(mem, fixate=0.2, question=[said(prompts[1][1:]), None]) as run:
        llama(**batch_of(prompts))
        again = [[place.segment for place in look.places] for look in run.report.looks]
    assert again == [places[1], places[1]]


def test_several_documents_in_one_memory(llama: Any) -> None:
    vist = tiny_vist.vist(llama, "lora")
    first, second = known(8, 30, 1), known(8, 32, 2)
    assert second.tokens is not None
    both, prompt = concat([first, second]), ids(6, 3)
    with vist.attach(both, fixate=0.25, question=said(second.tokens[12:18])) as run:
        llama(prompt[None])
    best = min(run.report.looks[0].places, key=lambda place: place.rank)
    assert (best.start, best.stop) == (42, 48)
    assert best.text == said(second.tokens[12:18])


def test_a_second_turn_reads_on_where_the_first_looked(llama: Any) -> None:
    vist, mem, prompt = tiny_vist.vist(llama, "lora"), known(12, 50), ids(8, 4)[None]
    how = {"do_sample": False, "max_new_tokens": NEW}
    with vist.attach(mem, fixate=0.3) as run:
        first = llama.generate(prompt, **how, return_dict_in_generate=True)
        more = torch.cat([first.sequences, ids(3, 9)[None]], dim=1)
        got = llama.generate(more, **how, past_key_values=first.past_key_values)
        assert len(run.reports) == 1
    with vist.attach(mem, fixate=0.3, question=said(prompt[0, 1:])):
        assert torch.equal(llama.generate(more, **how), got)


def test_inputs_embeds_need_a_question(llama: Any) -> None:
    vist, mem, prompt = tiny_vist.vist(llama, "lora"), known(12, 50), ids(8, 4)[None]
    embeds = llama.model.embed_tokens(prompt)
    with vist.attach(mem, fixate=0.3):
        want = llama(prompt).logits
        with pytest.raises(InputError, match=r"not known as text; give attach\(..., question="):
            llama(inputs_embeds=embeds)
    with vist.attach(mem, fixate=0.3, question=said(prompt[0, 1:])):
        assert_close(llama(inputs_embeds=embeds).logits, want)


def test_what_cannot_be_looked_at_is_refused(llama: Any) -> None:
    vist, mem = tiny_vist.vist(llama, "lora"), known(12, 50)
    for form in ("cross", "states"):
        with pytest.raises(UnsupportedModeError, match="needs latents that run through the model"):
            tiny_vist.vist(llama, form).attach(mem, fixate=0.1)
    with pytest.raises(InputError, match="does not know the tokens of its text"):
        vist.attach(tiny_vist.memory(9, 50), fixate=0.1)
    with pytest.raises(InputError, match="got a prefix, which holds no text"):
        vist.attach(vist.prefill(mem, ids(1)), fixate=0.1)
    for share in (-0.1, 1.5, True, "10%", float("nan"), [0.1]):
        with pytest.raises(ConfigError, match="use a share above 0 up to 1"):
            vist.attach(mem, fixate=share)  # type: ignore[arg-type]
    for skim in (1.0, "none", True):
        with pytest.raises(ConfigError, match="a skim from 0 to below 1"):
            Fixation(share=0.1, skim=skim)  # type: ignore[arg-type]
    for placing in ("near", True):
        with pytest.raises(ConfigError, match="use twice, close, apart or None"):
            Fixation(share=0.1, placing=placing)  # type: ignore[arg-type]
    looker: Any = Looker(vist.anatomy, vist.tokenizer, Fixation(share=0.3, placing="twice"))
    with pytest.raises(InputError, match="holds states of tokens at their own positions"):
        looker.look(replace(mem, form="carved", latents=torch.zeros(12, 0)), "a", None, None)
    for question in (3, [3], b"why"):
        with pytest.raises(InputError, match="give a text, or a list of one"):
            vist.attach(mem, fixate=0.1, question=question)  # type: ignore[arg-type]
    with (
        vist.attach(mem, fixate=0.1, question="  "),
        pytest.raises(InputError, match="no text comes after the memory"),
    ):
        llama(ids(5)[None])
    with (
        vist.attach(mem, fixate=0.1, question=["a", "b"]),
        pytest.raises(InputError, match="2 questions and 1 prompts came"),
    ):
        llama(ids(5)[None])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tokens": ids(50) + 1000}, "this model knows 100"),
        ({"tokens": torch.full((50,), -5)}, "token ids below -1"),
        ({"segments": torch.arange(7, 57, 6)}, "do not start at 0 and ascend"),
        ({"segments": torch.zeros(0, dtype=torch.int64)}, "do not start at 0 and ascend"),
        ({"positions": torch.full((12,), float("nan"))}, "not finite"),
    ],
)
def test_a_memory_that_no_text_gives_is_refused(
    llama: Any, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        tiny_vist.vist(llama, "lora").attach(replace(known(12, 50), **changes), fixate=0.3)


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3", "smollm3"])
def test_attention_is_what_the_eager_kernel_computes(family: str) -> None:
    llm = tiny_vist.model(family, attention="eager")
    vist, mem = tiny_vist.vist(llm, "lora"), known(9, 40)
    head, question = ids(2), ids(5, 6)
    prefix = vist.prefill(mem, head)
    assert isinstance(prefix, PrefixCache)
    got = question_attention(vist.anatomy, prefix, vist.embed(head[None]), question)
    with vist.attach(prefix, memory_at=2):
        seen = llm(torch.cat([head, question])[None], output_attentions=True).attentions
    want = torch.stack([layer[0, :, -1, :9] for layer in seen]).mean(dim=(0, 1))
    assert_close(got, want)
    assert 0 < float(got.sum()) < 1
