"""Scores and answers of the subjects equal plain computations with transformers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers as tf
from tokenizers import Tokenizer, models, pre_tokenizers

from foveate.errors import InputError
from foveate.vist.eval.context import FarContext
from foveate.vist.eval.subjects import RawSubject, VistSubject
from tests.vist import tiny_vist as tiny

FAR = " ".join(f"w{5 + i}_" for i in range(60))
PROMPT = "w7_ w9_ w11_ w30_"
OPTIONS = ("w8_ w9_", "w10_", "w7_ w12_ w40_", "w8_", "w7_ w12_ w41_ w3_", "w7_ w40_ w12_")
WINDOW, TARGET = (12, 13, 14), (20, 21, 22, 23)


def tokenizer() -> Any:
    """Word "w7_" is token 7; no word is part of another (special ones are split off)."""
    made = Tokenizer(models.WordLevel({f"w{i}_": i for i in range(tiny.VOCAB)}, unk_token="w3_"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tf.PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="w3_", pad_token="w0_", bos_token="w1_", eos_token="w2_"
    )


def direct_nll(model: Any, ids: list[int], score: int, positions: list[int] | None = None) -> float:
    """Sum of -log p of the last `score` tokens, one plain pass, causal 4-D mask."""
    size = len(ids)
    mask = torch.full((size, size), torch.finfo(torch.float32).min).triu(1)[None, None]
    places = torch.tensor([positions if positions is not None else list(range(size))])
    with torch.no_grad():
        logits = model(torch.tensor([ids]), attention_mask=mask, position_ids=places).logits[0]
    log_probs = logits.double().log_softmax(dim=-1)
    return -sum(float(log_probs[i - 1, ids[i]]) for i in range(size - score, size))


@pytest.fixture(scope="module", params=["llama", "qwen3"])
def model(request: pytest.FixtureRequest) -> Any:
    return tiny.model(request.param)


@pytest.fixture(scope="module")
def raw(model: Any) -> RawSubject:
    return RawSubject(model, tokenizer())


@pytest.fixture(scope="module", params=["embeddings", "states", "cross"])
def subject(model: Any, request: pytest.FixtureRequest) -> VistSubject:
    vist = tiny.vist(model, request.param)
    vist.tokenizer = tokenizer()
    return VistSubject(vist)


@pytest.fixture(scope="module")
def far(raw: RawSubject) -> FarContext:
    return FarContext(source=raw.encode(FAR))


def near(value: float) -> Any:
    return pytest.approx(value, rel=1e-5)


def test_raw_loss_is_the_models(model: Any, raw: RawSubject, far: FarContext) -> None:
    short = FarContext(source=far.source.cut(0, 7))
    scores = raw.nll([None, far, short], [WINDOW] * 3, [TARGET] * 3)
    tail = [*WINDOW, *TARGET]
    assert [s.tokens for s in scores] == [4, 4, 4]
    for score, before in zip(scores, ((), far.ids, far.ids[:7]), strict=True):
        assert score.nats == near(direct_nll(model, [1, *before, *tail], 4))


def test_heads_of_rows(model: Any, raw: RawSubject, subject: VistSubject, far: FarContext) -> None:
    tail = [*WINDOW, *TARGET]
    heads = [(31,), (32, 33)]
    got = raw.nll([far, far], [WINDOW] * 2, [TARGET] * 2, heads)
    for score, head in zip(got, heads, strict=True):
        assert score.nats == near(direct_nll(model, [*head, *far.ids, *tail], 4))
    memory = subject.vist.read(FAR)
    for score, head in zip(
        subject.nll([far, far], [WINDOW] * 2, [TARGET] * 2, heads), heads, strict=True
    ):
        assert score.nats == near(4 * float(subject.vist.nll(memory, list(head), tail, 4)))


def test_left_out_tokens_leave_gaps_in_the_positions(
    model: Any, raw: RawSubject, far: FarContext
) -> None:
    sparse = far.sample(9, np.random.default_rng(0))
    assert sparse is not None
    assert sparse.positions is not None
    ids = [1, *sparse.ids, *WINDOW, *TARGET]
    positions = [0, *(1 + p for p in sparse.positions), *range(61, 68)]
    (score,) = raw.nll([sparse], [WINDOW], [TARGET])
    assert score.nats == near(direct_nll(model, ids, 4, positions))
    assert score.nats != pytest.approx(direct_nll(model, ids, 4), rel=1e-4)
    (by_option,) = raw.option_nll(sparse, "w12_ w13_ w14_", ["w20_ w21_ w22_ w23_"])
    assert by_option.nats == near(score.nats)


@pytest.mark.parametrize("with_far", [True, False])
def test_raw_options_are_scored_alone(
    model: Any, raw: RawSubject, far: FarContext, with_far: bool
) -> None:
    before = [1, *(far.ids if with_far else ())]
    asked = raw.encode(PROMPT).ids
    for _ in range(2):  # the second time from the kept cache
        scores = raw.option_nll(far if with_far else None, PROMPT, OPTIONS)
        for score, option in zip(scores, OPTIONS, strict=True):
            ids = raw.encode(option).ids
            assert score.tokens == len(ids)
            assert score.nats == near(direct_nll(model, [*before, *asked, *ids], len(ids)))


@pytest.mark.parametrize("with_far", [True, False])
def test_prompts_that_begin_alike_are_not_rerun(
    raw: RawSubject, subject: VistSubject, far: FarContext, with_far: bool
) -> None:
    """Cached equals recomputed, whatever was asked before; only what is new is fed."""
    own = far if with_far else None
    prompts = ["w7_ w9_ w11_ w30_", "w7_ w9_ w11_ w30_ w31_", "w7_ w9_ w12_", "w7_ w9_ w12_", "w5_"]
    for one in (raw, subject):
        fresh: Any = type(one)(*((subject.vist,) if one is subject else (one.model, tokenizer())))
        fed: list[int] = []
        handle = one.model.register_forward_pre_hook(
            lambda module, args, kwargs, fed=fed: fed.append(args[0].shape[1]), with_kwargs=True
        )
        got = [fresh.option_nll(own, prompt, OPTIONS) for prompt in prompts]
        handle.remove()
        fresh.answer(own, prompts[0], 3)
        got.append(fresh.option_nll(own, prompts[0], OPTIONS))
        for scores, prompt in zip(got, [*prompts, prompts[0]], strict=True):
            clean: Any = type(one)(
                *((subject.vist,) if one is subject else (one.model, tokenizer()))
            )
            want = clean.option_nll(own, prompt, OPTIONS)
            assert [s.nats for s in scores] == [near(s.nats) for s in want]
        if one is raw or subject.vist.parts.fusion.prefix is not None:
            rows = [raw.encode(option).ids for option in OPTIONS]
            options = len({row[:i] for row in rows for i in range(1, len(row))})
            assert [n - options for n in fed[-5:]] == [4, 1, 1, 1, 1]


def test_raw_answer_is_generates(model: Any, raw: RawSubject, far: FarContext) -> None:
    ids = torch.tensor([[1, *far.ids, *raw.encode(PROMPT).ids]])
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False
    )
    said = out[0, ids.shape[1] :].tolist()
    said = said[: said.index(2)] if 2 in said else said
    assert raw.answer(far, PROMPT, 6) == raw.tokenizer.decode(said, skip_special_tokens=True)
    assert raw.answer(far, PROMPT, 6) == raw.answer(far, PROMPT, 6)


def test_vist_loss_is_vists(subject: VistSubject, far: FarContext) -> None:
    scores = subject.nll([far, None], [WINDOW] * 2, [TARGET] * 2)
    memory = subject.vist.read(FAR)
    want = 4 * float(subject.vist.nll(memory, [1], [*WINDOW, *TARGET], 4))
    assert scores[0].nats == near(want)
    assert scores[1].nats == near(direct_nll(subject.model, [1, *WINDOW, *TARGET], 4))
    assert scores[0].nats != pytest.approx(scores[1].nats, rel=1e-4)
    assert subject.num_entries(far) == memory.num_latents


def test_vist_options_are_scored_alone(subject: VistSubject, far: FarContext) -> None:
    memory = subject.vist.read(FAR)
    asked = list(subject.encode(PROMPT).ids)
    scores = subject.option_nll(far, PROMPT, OPTIONS)
    for score, option in zip(scores, OPTIONS, strict=True):
        ids = list(subject.encode(option).ids)
        alone = float(subject.vist.nll(memory, [1], [*asked, *ids], len(ids))) * len(ids)
        assert score.nats == near(alone)
    assert subject.choose(far, PROMPT, OPTIONS, "sum") == min(
        range(len(OPTIONS)), key=lambda i: scores[i].nats
    )


def test_prompts_share_a_prefix(subject: VistSubject, far: FarContext) -> None:
    """A far context is read and run through the model once for all prompts."""
    fresh = VistSubject(subject.vist)
    for prompt in (PROMPT, "w7_", "w8_ w9_ w10_"):
        fresh.option_nll(far, prompt, OPTIONS)
        fresh.answer(far, prompt, 2)
    assert len(fresh._prefixes) == len(fresh._memories) == 1


def test_without_far_both_readers_agree(raw: RawSubject, subject: VistSubject) -> None:
    ours = subject.option_nll(None, PROMPT, OPTIONS)
    theirs = RawSubject(subject.model, tokenizer()).option_nll(None, PROMPT, OPTIONS)
    assert [s.nats for s in ours] == pytest.approx([s.nats for s in theirs], rel=1e-5)


def test_vist_answer_is_generates(subject: VistSubject, far: FarContext) -> None:
    ids = torch.tensor([[1, *subject.encode(PROMPT).ids]])
    with subject.vist.attach(subject.vist.read(FAR)):
        out = subject.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=5, do_sample=False
        )
    said = out[0, ids.shape[1] :].tolist()
    said = said[: said.index(2)] if 2 in said else said
    want = subject.tokenizer.decode(said, skip_special_tokens=True)
    assert subject.answer(far, PROMPT, 5) == want
    assert not subject.model.model._forward_hooks


def test_latents_per_strip(subject: VistSubject, far: FarContext) -> None:
    half = VistSubject(subject.vist, num_latents=4)
    assert half.num_entries(far) < subject.num_entries(far)


def test_head(model: Any) -> None:
    assert RawSubject(model, tokenizer()).head_ids == (1,)
    assert RawSubject(model, tokenizer(), "w9_ w8_").head_ids == (9, 8)
    with pytest.raises(InputError, match="has no tokens"):
        RawSubject(model, tokenizer(), "")


def test_empty_prompt(raw: RawSubject) -> None:
    with pytest.raises(InputError, match="a prompt or an option has no tokens"):
        raw.option_nll(None, PROMPT, ["w5_", ""])
