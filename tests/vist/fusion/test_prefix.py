"""A prefix in the cache equals everything in one pass; rows, heads and padding do not mix."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from foveate.vist.config import FusionConfig, ResamplerConfig, VistConfig
from foveate.vist.fusion import prefix
from foveate.vist.fusion.kv_prefix import rotate
from foveate.vist.latents.memory import Memory, concat, pack_pages, pad_memories
from foveate.vist.run.vist import Vist
from tests.vist import tiny_vist
from tests.vist.tiny_vist import FAMILIES, FORMS, KINDS, assert_close, ids, memory

HEAD, TAIL, K = 2, 9, 5


@pytest.fixture(scope="module", params=FAMILIES)
def llm(request: pytest.FixtureRequest) -> Any:
    # A window of any family must not matter to an oracle of plain causal attention.
    wide = {"sliding_window": 400} if request.param in ("mistral", "qwen2") else {}
    return tiny_vist.model(request.param, **wide)


def one_pass_embeddings(llm: Any, vist: Any, mem: Any, text: Tensor) -> Tensor:
    """Logits with the latents spliced in as embeddings, LoRA on their rows by mask."""
    fused = vist.parts.fusion.prefix
    embeds = llm.model.embed_tokens(text)
    spliced = torch.cat([embeds[:HEAD], fused(mem.latents), embeds[HEAD:]])[None]
    text_places = torch.arange(len(text)).float()
    text_places[HEAD:] += mem.num_tokens
    places = torch.cat([text_places[:HEAD], HEAD + mem.positions, text_places[HEAD:]])
    is_latent = torch.zeros(spliced.shape[1], 1)
    is_latent[HEAD : HEAD + mem.num_latents] = 1
    handles = []
    if fused.lora is not None:
        for i, target in fused.lora.targets:
            linear = llm.model.layers[i].get_submodule(target)
            handles.append(
                linear.register_forward_hook(
                    lambda m, a, out, i=i, t=target: out + is_latent * fused.lora.delta(i, t, a[0])
                )
            )
    hidden = llm.model(
        inputs_embeds=spliced,
        attention_mask=torch.ones(1, spliced.shape[1], dtype=torch.long),
        position_ids=places[None],
    ).last_hidden_state
    for handle in handles:
        handle.remove()
    return llm.lm_head(hidden[:, -K - 1 : -1])


def cache_of_states(llm: Any, vist: Any, mem: Any, text: Tensor) -> Tensor:
    """Logits with predicted states' keys and values put into a real cache after the head's."""
    cache = DynamicCache()
    llm.model(input_ids=text[None, :HEAD], past_key_values=cache, use_cache=True)
    states = vist.parts.fusion.prefix(mem.latents[None])
    cos, sin = llm.model.rotary_emb(mem.latents, HEAD + mem.positions[None])
    for i, layer in enumerate(llm.model.layers):
        attention = layer.self_attn
        shape = (1, mem.num_latents, -1, attention.head_dim)
        keys = attention.k_proj(states[i]).view(shape)
        keys = attention.k_norm(keys) if hasattr(attention, "k_norm") else keys
        keys = keys.transpose(1, 2)
        if getattr(attention, "use_rope", True):
            keys = rotate(keys, cos, sin)
        cache.layers[i].update(keys, attention.v_proj(states[i]).view(shape).transpose(1, 2))
    places = torch.arange(HEAD, len(text))[None] + mem.num_tokens
    hidden = llm.model(
        input_ids=text[None, HEAD:], past_key_values=cache, position_ids=places
    ).last_hidden_state
    return llm.lm_head(hidden[:, -K - 1 : -1])


@pytest.mark.parametrize("form", ["lora", "states"])
@torch.no_grad()
def test_cached_prefix_equals_one_pass(llm: Any, form: str) -> None:
    vist = tiny_vist.vist(llm, form)
    mem, text = memory(11, 40), ids(HEAD + TAIL)
    oracle = cache_of_states if form == "states" else one_pass_embeddings
    want = oracle(llm, vist, mem, text)
    got = vist.forward_train(pad_memories([mem]), text[:HEAD], text[HEAD:], score_last=K)
    assert_close(got.logits, want)
    cached = vist.prefill(mem, text[:HEAD])
    nll = vist.nll(cached, text[:HEAD], text[HEAD:], K)
    assert_close(nll, got.token_nll.mean(dim=1))
    plain = vist.forward_train(None, text[:HEAD], text[HEAD:], score_last=K)
    assert (plain.logits - want).abs().max() > 1e-2, "the memory must matter"


@pytest.mark.parametrize("form", KINDS)
@torch.no_grad()
def test_batch_row_equals_single_run(llm: Any, form: str) -> None:
    vist = tiny_vist.vist(llm, form)
    mems = [memory(11, 40, 1), None, memory(5, 70, 2), memory(3, 9, 3)]
    heads = [ids(1, 5), ids(2, 6), ids(4, 7), ids(1, 8)]
    tails = [ids(n, n) for n in (9, 12, 6, 20)]
    got = vist.forward_train(pad_memories(mems), heads, tails, score_last=K, states_at=[2])
    for row, mem in enumerate(mems):
        batch = pad_memories([mem]) if mem is not None else None
        alone = vist.forward_train(batch, heads[row], tails[row], score_last=K, states_at=[2])
        assert_close(got.logits[row], alone.logits[0])
        real = got.text_mask[row]
        assert_close(got.states[2][row, real], alone.states[2][0])
        assert torch.equal(got.targets[row], tails[row][-K:])
    one_by_one = torch.cat(
        [vist.nll(m, h, t, K) for m, h, t in zip(mems, heads, tails, strict=True)]
    )
    assert_close(vist.nll(mems, heads, tails, K), one_by_one)


@torch.no_grad()
def test_one_prefix_for_many_tails(llm: Any) -> None:
    vist = tiny_vist.vist(llm, "lora")
    mem, head = memory(7, 30), ids(1)
    cached = vist.prefill(mem, head)
    tails = [ids(n, n) for n in (6, 9, 13)]
    want = torch.cat([vist.nll(mem, head, tail, 4) for tail in tails])
    assert_close(vist.nll(cached, head, tails, 4), want)


@pytest.mark.parametrize("form", FORMS)
def test_gradients_reach_the_trained_parts_only(form: str) -> None:
    llm = tiny_vist.model()
    vist = tiny_vist.vist(llm, form)
    mask = torch.ones(3, 256, dtype=torch.bool)
    latents, keep, cls = vist.parts(torch.randn(3, 256, tiny_vist.FEATURES), mask)
    where = torch.arange(24.0).view(1, 3, 8)
    batch = pack_pages(latents[None], keep[None], where, [24])
    scores = vist.forward_train(batch, ids(1), ids(9), score_last=K)
    (scores.token_nll.mean() + cls.square().mean()).backward()
    for name, weight in vist.parts.named_parameters():
        assert weight.grad is not None, name
        assert bool(weight.grad.abs().sum() > 0), name
    frozen = [*llm.parameters(), *vist.encoder.parameters()]
    assert all(weight.grad is None and not weight.requires_grad for weight in frozen)


@torch.no_grad()
def test_latents_that_are_token_embeddings_equal_raw_text(llm: Any) -> None:
    config = VistConfig(
        resampler=ResamplerConfig(input_width=4, width=48), fusion=FusionConfig(projection="none")
    )
    vist = Vist(llm, None, None, config)
    head, context, tail = ids(HEAD), ids(30, 1), ids(TAIL, 2)
    mem = Memory(
        latents=llm.model.embed_tokens(context), positions=torch.arange(30.0), num_tokens=30
    )
    want = vist.nll(None, head, torch.cat([context, tail]), K)
    assert_close(vist.nll(mem, head, tail, K), want)
    # The same as two documents, one after the other.
    halves = [
        Memory(latents=mem.latents[i : i + 15], positions=torch.arange(15.0), num_tokens=15)
        for i in (0, 15)
    ]
    assert_close(vist.nll(concat(halves), head, tail, K), want)


@torch.no_grad()
def test_latents_in_parts_equal_all_at_once(llm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    vist = tiny_vist.vist(llm, "lora")
    batch = pad_memories([memory(11, 40, 1), memory(6, 40, 2)])
    want = vist.forward_train(batch, ids(2), ids(9), score_last=K).logits
    monkeypatch.setattr(prefix, "ENTRIES_AT_A_TIME", 4)
    assert_close(vist.forward_train(batch, ids(2), ids(9), score_last=K).logits, want)


@pytest.mark.parametrize("form", ["cross", "cross_some"])
@torch.no_grad()
def test_cross_attention_starts_as_the_base_model(llm: Any, form: str) -> None:
    before = {name: weight.clone() for name, weight in llm.state_dict().items()}
    text = ids(14)[None]
    want = llm(text).logits
    vist = tiny_vist.vist(llm, form, trained=False)
    with vist.attach(memory(11, 40)):
        assert torch.equal(llm(text).logits, want)
        assert torch.equal(llm(text, use_cache=False).logits, want)
        assert list(llm.state_dict()) == list(before), "base keys are untouched"
    assert all(torch.equal(llm.state_dict()[name], weight) for name, weight in before.items())


@pytest.mark.parametrize("form", ["cross", "cross_some"])
def test_cross_attention_starts_from_the_self_attention(llm: Any, form: str) -> None:
    vist = tiny_vist.vist(llm, form, trained=False)
    for name, module in vist.parts.fusion.cross.items():
        theirs = llm.model.layers[int(name)].self_attn
        assert torch.equal(module.q_proj.weight, theirs.q_proj.weight)
        for which in ("k_proj", "v_proj"):
            ours = getattr(module, which)
            assert torch.equal(ours.weight, getattr(theirs, which).weight[:, : tiny_vist.WIDTH])
            if getattr(theirs, which).bias is not None:
                assert torch.equal(ours.bias, getattr(theirs, which).bias)
        assert bool((module.o_proj.weight == 0).all())
