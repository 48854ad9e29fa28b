"""Every way people generate with a carved model, and every way that is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as tf

import foveate
from foveate.errors import (
    AttachError,
    BudgetError,
    CarvedCacheError,
    MethodError,
    UnsupportedModeError,
    UnsupportedModelError,
)
from foveate.vist.fusion.prefix import decoder_of
from tests import tiny_vlm as tiny

CARVE = foveate.TokenCarve(keep_ratio=0.3)
STEPS = 6
# A random model may well "say" an image placeholder; trained ones do not.
SUPPRESS = {"suppress_tokens": [tiny.IMAGE_ID, tiny.VIDEO_ID]}
GREEDY = {"max_new_tokens": STEPS, "do_sample": False, **SUPPRESS}


@pytest.fixture
def llava() -> Any:
    return tiny.build("llava")


def carved(model: Any, inputs: dict[str, Any], method: Any = CARVE, **settings: Any) -> Any:
    with foveate.attach(model, method) as run:
        out = model.generate(**inputs, **{**GREEDY, **settings})
    assert run.report is not None
    assert run.report.fired
    return out


modes = pytest.mark.parametrize(
    "settings",
    [
        {},
        {"num_beams": 3},
        {"num_beams": 2, "num_return_sequences": 2},
        {"do_sample": True, "temperature": 1.5},
        {"do_sample": True, "num_return_sequences": 3},
        {"num_beams": 2, "do_sample": True},
        {"repetition_penalty": 1.3},
    ],
    ids=["greedy", "beams", "beam-sequences", "sampling", "sequences", "beam-sampling", "penalty"],
)


@modes
@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "gemma3", "smolvlm"])
def test_cached_equals_recomputed(name: str, settings: dict[str, Any]) -> None:
    """Generation with the carved cache gives the tokens that recomputing every step gives."""
    model = tiny.build(name)
    num_images = (1, 2) if name == "llava" else (1, 1)
    inputs = tiny.prompts(model, name, num_images)
    torch.manual_seed(3)
    cached = carved(model, inputs, **settings)
    torch.manual_seed(3)
    recomputed = carved(model, inputs, use_cache=False, **settings)
    assert torch.equal(cached, recomputed)


@pytest.mark.parametrize("early_cache", ["compact", "full"])
def test_cacheless_logits_equal_cached(llava: Any, early_cache: Any) -> None:
    inputs = tiny.prompts(llava, "llava", (1, 2, 0))
    method = foveate.TokenCarve(keep_ratio=0.3, early_cache=early_cache)
    keep = {"return_dict_in_generate": True, "output_logits": True}
    a = carved(llava, inputs, method, **keep).logits
    b = carved(llava, inputs, method, use_cache=False, **keep).logits
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["llava", "qwen2_vl", "gemma3"])
def test_prompt_lookup_equals_greedy(name: str) -> None:
    model = tiny.build(name)
    inputs = tiny.prompts(model, name, (1,))
    inputs["input_ids"] = inputs["input_ids"].clone()
    inputs["input_ids"][:, -4:] = torch.tensor([[11, 12, 11, 12]])  # something to look up
    greedy = carved(model, inputs, max_new_tokens=12)
    assert torch.equal(greedy, carved(model, inputs, max_new_tokens=12, prompt_lookup_num_tokens=3))


@pytest.mark.parametrize("name", ["llava", "internvl"])
def test_assisted_equals_greedy(name: str) -> None:
    model = tiny.build(name)
    assistant = tf.LlamaForCausalLM(tf.LlamaConfig(**{**tiny.TEXT, "num_hidden_layers": 1})).eval()
    assistant.generation_config.eos_token_id = None
    inputs = tiny.prompts(model, name, (1,))
    greedy = carved(model, inputs, max_new_tokens=12)
    assert torch.equal(greedy, carved(model, inputs, max_new_tokens=12, assistant_model=assistant))


def test_more_than_150_new_tokens_and_short_prompt(llava: Any) -> None:
    out = carved(llava, tiny.prompts(llava, "llava", (1,)), max_new_tokens=160)
    assert out.shape[1] > 200


@pytest.mark.parametrize("keep", [1, 2, 25, 35])
def test_any_budget(llava: Any, keep: int) -> None:
    """One token; T > 2N/3 (where the official code crashes); all but one."""
    inputs = tiny.prompts(llava, "llava", (1,))
    with foveate.attach(llava, foveate.TokenCarve(keep_tokens=keep)) as run:
        llava.generate(**inputs, **GREEDY)
    assert run.report is not None
    assert run.report.kept == keep


@pytest.mark.parametrize("layer", [1, 2, 3, 4])
def test_any_layer_has_consistent_caches(llava: Any, layer: int) -> None:
    inputs = tiny.prompts(llava, "llava", (1, 0))
    method = foveate.TokenCarve(keep_tokens=7, prune_layer=layer)
    out = carved(llava, inputs, method, return_dict_in_generate=True)
    lengths = {cached.keys.shape[-2] for cached in out.past_key_values.layers}
    text = inputs["input_ids"].shape[1] - 36
    assert lengths == {text + 7 + STEPS - 1}


def test_more_tokens_than_width() -> None:
    model = tiny.build("llava_next")  # 192 tokens, width 48
    with foveate.attach(model, foveate.TokenCarve(keep_tokens=60)) as run:
        model.generate(**tiny.prompts(model, "llava_next", (3,)), **GREEDY)
    assert [p.plan.num_kept for p in run.plans if p.plan] == [60, 60, 60]


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "gemma3", "smolvlm"])
@pytest.mark.parametrize("second_images", [(0,), (1,)], ids=["text-turn", "image-turn"])
def test_chat_continues_a_carved_cache(name: str, second_images: tuple[int, ...]) -> None:
    """A second turn in one go equals the same tokens fed one by one, or in one call with images."""
    model = tiny.build(name)
    first = tiny.prompts(model, name, (1,))
    second = tiny.prompts(model, name, second_images, seed=50)
    length = first["input_ids"].shape[1] + second["input_ids"].shape[1]
    second["attention_mask"] = torch.ones(1, length, dtype=torch.long)
    if name == "qwen2_5_vl":
        # Qwen computes later positions from rope_deltas of the first turn.
        second["position_ids"] = torch.arange(length)[-second["input_ids"].shape[1] :].expand(
            3, 1, -1
        )
        second.pop("mm_token_type_ids")
    with foveate.attach(model, CARVE) as run, torch.no_grad():
        cache = model(**first).past_key_values
        together = model(**second, past_key_values=cache).logits[0]
        assert cache.get_seq_length() == length
        if second_images == (1,):
            assert [r.fired for r in run.reports] == [True, True]
            return_length = cache.layers[-1].keys.shape[-2]
            kept = sum(report.kept for report in run.reports)
            text = length - sum(report.before for report in run.reports)
            if name != "gemma3":  # a sliding layer may hold less
                assert return_length == kept + text
        else:
            cache = model(**first).past_key_values
            steps = []
            ids, mask = second["input_ids"], second["attention_mask"]
            for i in range(ids.shape[1]):
                end = length - ids.shape[1] + i + 1
                extra = (
                    {"position_ids": second["position_ids"][..., i : i + 1]}
                    if "position_ids" in second
                    else {}
                )
                if name == "gemma3":
                    extra["token_type_ids"] = torch.zeros_like(ids[:, i : i + 1])
                out = model(
                    input_ids=ids[:, i : i + 1],
                    attention_mask=mask[:, :end],
                    past_key_values=cache,
                    **extra,
                )
                steps.append(out.logits[0, -1])
            torch.testing.assert_close(together, torch.stack(steps), atol=2e-5, rtol=1e-4)


def test_generate_continues_a_carved_cache(llava: Any) -> None:
    inputs = tiny.prompts(llava, "llava", (1,))
    with foveate.attach(llava, CARVE):
        whole = llava.generate(**inputs, max_new_tokens=8, do_sample=False, **SUPPRESS)
        first = llava.generate(
            **inputs, max_new_tokens=4, do_sample=False, return_dict_in_generate=True, **SUPPRESS
        )
        rest = llava.generate(
            input_ids=first.sequences,
            attention_mask=torch.ones_like(first.sequences),
            past_key_values=first.past_key_values,
            max_new_tokens=4,
            do_sample=False,
            **SUPPRESS,
        )
    assert torch.equal(whole, rest)


def test_interleaved_caches(llava: Any) -> None:
    """State lives in the cache: two conversations may alternate."""
    a, b = tiny.prompts(llava, "llava", (1,)), tiny.prompts(llava, "llava", (2,), seed=9)
    alone = [carved(llava, inputs, max_new_tokens=3) for inputs in (a, b)]
    with foveate.attach(llava, CARVE), torch.no_grad():
        caches, ids = [None, None], [a["input_ids"], b["input_ids"]]
        feeds: list[dict[str, Any]] = [a, b]
        for _ in range(3):
            for i in (0, 1):
                out = llava(**feeds[i], past_key_values=caches[i], use_cache=True)
                caches[i] = out.past_key_values
                token = out.logits[:, -1:].argmax(-1)
                ids[i] = torch.cat([ids[i], token], dim=1)
                feeds[i] = {"input_ids": token}
    assert torch.equal(ids[0], alone[0])
    assert torch.equal(ids[1], alone[1])


@pytest.mark.parametrize("settings", [{}, {"num_beams": 2}], ids=["greedy", "beams"])
def test_inputs_embeds_with_explicit_mask(llava: Any, settings: dict[str, Any]) -> None:
    inputs = tiny.prompts(llava, "llava", (1, 1))
    ids = inputs["input_ids"]
    with torch.no_grad():
        embeds = llava.get_input_embeddings()(ids)
        features = torch.cat(llava.get_image_features(inputs["pixel_values"]).pooler_output)
    is_visual = ids == tiny.IMAGE_ID
    embeds[is_visual] = features
    expected = carved(llava, inputs, **settings)[:, ids.shape[1] :]
    with foveate.attach(llava, CARVE, visual_mask=is_visual) as run:
        got = llava.generate(
            inputs_embeds=embeds,
            attention_mask=inputs["attention_mask"],
            **{**GREEDY, **settings},
        )
    assert run.report is not None
    assert run.report.fired
    assert torch.equal(got, expected)


def test_inputs_embeds_without_mask_is_refused(llava: Any) -> None:
    embeds = torch.randn(1, 12, 48)
    with (
        foveate.attach(llava, CARVE),
        pytest.raises(UnsupportedModeError, match="inputs_embeds does not say which"),
    ):
        llava.generate(inputs_embeds=embeds, **GREEDY)


def test_precomputed_features(llava: Any) -> None:
    """Features computed before attaching still tell adjacent images apart."""
    inputs = tiny.prompts(llava, "llava", (2,))
    pixels = inputs.pop("pixel_values")
    with torch.no_grad():
        features = llava.get_image_features(pixels, return_dict=True)
    with foveate.attach(llava, CARVE) as run, torch.no_grad():
        llava(**inputs, mm_encoder_outputs={"image": features})
    assert run.report is not None
    assert [image.before for image in run.report.images] == [36, 36]


def test_two_prompts_are_two_fresh_runs(llava: Any) -> None:
    a, b = tiny.prompts(llava, "llava", (1,)), tiny.prompts(llava, "llava", (2, 1), seed=9)
    alone = carved(llava, b)
    with foveate.attach(llava, CARVE) as run:
        llava.generate(**a, **GREEDY)
        assert torch.equal(llava.generate(**b, **GREEDY), alone)
    assert [len(report.images) for report in run.reports] == [1, 3]


# --- the model afterwards
# ---------------------------------------------------------------------------


def snapshot(model: Any) -> Any:
    # transformers itself leaves marks on a model the first time it generates
    model.generate(**tiny.prompts(model, "llava", (1,)), **GREEDY)
    return (
        {k: v.clone() for k, v in model.state_dict().items()},
        model.config.to_json_string(),
        [
            (name, len(m._forward_pre_hooks), len(m._forward_hooks), sorted(m.__dict__))
            for name, m in model.named_modules()
        ],
        [id(layer.self_attn.config) for layer in model.model.language_model.layers],
    )


def assert_same(model: Any, before: Any) -> None:
    after = snapshot(model)
    assert before[1:] == after[1:]
    assert before[0].keys() == after[0].keys()
    for key in before[0]:
        assert torch.equal(before[0][key], after[0][key]), key


@pytest.mark.parametrize("information_input", ["layer_output", "attention_output"])
def test_detach_restores_the_model(llava: Any, information_input: Any) -> None:
    before = snapshot(llava)
    inputs = tiny.prompts(llava, "llava", (1,))
    plain = llava.generate(**inputs, **GREEDY)
    carved(llava, inputs, foveate.TokenCarve(keep_tokens=5, information_input=information_input))
    assert_same(llava, before)
    assert torch.equal(llava.generate(**inputs, **GREEDY), plain)


def test_exception_restores_the_model(llava: Any) -> None:
    before = snapshot(llava)
    inputs = tiny.prompts(llava, "llava", (1,))
    with pytest.raises(BudgetError), foveate.attach(llava, foveate.TokenCarve(keep_tokens=999)):
        llava.generate(**inputs, **GREEDY)
    assert_same(llava, before)


def test_without_with(llava: Any) -> None:
    before = snapshot(llava)
    run = foveate.attach(llava, CARVE)
    assert run.attached
    llava.generate(**tiny.prompts(llava, "llava", (1,)), **GREEDY)
    run.detach()
    run.detach()
    assert not run.attached
    assert_same(llava, before)
    assert run.report is not None


def test_second_attach_is_refused_and_first_survives(llava: Any) -> None:
    inputs = tiny.prompts(llava, "llava", (1,))
    with foveate.attach(llava, CARVE) as run:
        with pytest.raises(AttachError, match="detach that run first"):
            foveate.attach(llava, CARVE)
        llava.generate(**inputs, **GREEDY)
    assert run.report is not None
    foveate.attach(llava, CARVE).detach()


def test_decoding_after_detach_raises(llava: Any) -> None:
    inputs = tiny.prompts(llava, "llava", (1,))
    with foveate.attach(llava, CARVE) as run, torch.no_grad():
        cache = llava(**inputs).past_key_values
    token = torch.tensor([[5]])
    with pytest.raises(CarvedCacheError, match="attach again"), torch.no_grad():
        llava(input_ids=token, past_key_values=cache)
    run.attach()
    with torch.no_grad():
        llava(input_ids=token, past_key_values=cache)
    run.detach()


def test_a_cache_that_closed_ranks_goes_on_under_original_positions(llava: Any) -> None:
    inputs, token = tiny.prompts(llava, "llava", (1,)), torch.tensor([[5]])
    method = foveate.DivPrune(keep_tokens=5, positions="renumbered")
    with foveate.attach(llava, method), torch.no_grad():
        cache = llava(**inputs).past_key_values
        expected = llava(input_ids=token, past_key_values=cache).logits
    with foveate.attach(llava, method), torch.no_grad():
        cache = llava(**inputs).past_key_values
    with foveate.attach(llava, foveate.DivPrune(keep_tokens=5)), torch.no_grad():
        got = llava(input_ids=token, past_key_values=cache).logits
    assert torch.equal(got, expected)


def test_attach_again_with_another_method_continues_the_cache(llava: Any) -> None:
    inputs = tiny.prompts(llava, "llava", (1,))
    with foveate.attach(llava, CARVE), torch.no_grad():
        cache = llava(**inputs).past_key_values
        expected = llava(input_ids=torch.tensor([[5]]), past_key_values=cache).logits
    with foveate.attach(llava, CARVE), torch.no_grad():
        cache = llava(**inputs).past_key_values
    with foveate.attach(llava, foveate.DivPrune(keep_tokens=3)), torch.no_grad():
        got = llava(input_ids=torch.tensor([[5]]), past_key_values=cache).logits
    assert torch.equal(got, expected)


# --- refusals
# --------------------------------------------------------------------------------------


def test_static_cache_is_refused(llava: Any) -> None:
    inputs = tiny.prompts(llava, "llava", (1,))
    with (
        foveate.attach(llava, CARVE),
        pytest.raises(UnsupportedModeError, match="leave cache_implementation unset"),
    ):
        llava.generate(**inputs, **GREEDY, cache_implementation="static", disable_compile=True)


def test_chunked_prefill_is_refused(llava: Any) -> None:
    inputs = tiny.prompts(llava, "llava", (1,))
    with (
        foveate.attach(llava, CARVE),
        pytest.raises(UnsupportedModeError, match="prefill_chunk_size=16"),
    ):
        llava.generate(**inputs, **GREEDY, prefill_chunk_size=16)


def test_compiled_model_is_refused(llava: Any) -> None:
    with pytest.raises(UnsupportedModeError, match="uncompiled"):
        foveate.attach(torch.compile(llava), CARVE)
    with pytest.raises(UnsupportedModeError, match="compile'd model cannot be hooked"):
        decoder_of(torch.compile(llava))


def test_a_model_without_a_decoder_to_carve_says_so() -> None:
    gpt2 = tf.GPT2LMHeadModel(tf.GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=10))
    with pytest.raises(UnsupportedModelError, match="no decoder with a list of layers"):
        foveate.attach(gpt2, CARVE)


def test_text_model_needs_a_mask() -> None:
    llama = tf.LlamaForCausalLM(tf.LlamaConfig(**tiny.TEXT))
    with pytest.raises(UnsupportedModelError, match="visual_mask="):
        foveate.attach(llama, CARVE)


def test_not_a_method(llava: Any) -> None:
    with pytest.raises(MethodError, match="pass an instance"):
        foveate.Run(llava, "tokencarve")  # type: ignore[arg-type]


def test_layer_outside_the_model(llava: Any) -> None:
    with pytest.raises(MethodError, match="outside the 5 decoder layers"):
        foveate.attach(llava, foveate.FastV(keep_tokens=4, prune_layer=5))


def test_too_early_for_deepstack() -> None:
    model = tiny.build("qwen3_vl")
    with pytest.raises(MethodError, match="use prune_layer=2 or more"):
        foveate.attach(model, foveate.TokenCarve(keep_tokens=4, prune_layer=1))
    with foveate.attach(model, foveate.DivPrune(keep_tokens=4)) as run:
        assert run.prune_layer == 2


def test_too_many_tokens_names_image_and_fix(llava: Any) -> None:
    inputs = tiny.prompts(llava, "llava", (1,))
    message = "keep_tokens=700 exceeds the 36 visual tokens of image 0; lower it or use keep_ratio."
    with (
        foveate.attach(llava, foveate.TokenCarve(keep_tokens=700)),
        pytest.raises(BudgetError) as caught,
    ):
        llava.generate(**inputs, **GREEDY)
    assert str(caught.value) == message


# --- forms of input ---


def test_right_padding_in_a_forward_pass(llava: Any) -> None:
    """Padding on the right is kept; the last real token of a row sees what it sees alone."""
    inputs = tiny.prompts(llava, "llava", (1, 2))
    lengths = inputs["attention_mask"].sum(-1).tolist()
    ids = torch.zeros_like(inputs["input_ids"])
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        ids[row, :length] = inputs["input_ids"][row, -length:]
        mask[row, :length] = 1
    with foveate.attach(llava, CARVE), torch.no_grad():
        out = llava(input_ids=ids, attention_mask=mask, pixel_values=inputs["pixel_values"])
        for row in (0, 1):
            alone = llava(**tiny.row_of(inputs, llava, "llava", row, (1, 2))).logits[0, -1]
            last = out.logits[row, -1 - (ids.shape[1] - lengths[row])]
            torch.testing.assert_close(last, alone, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "gemma3"])
def test_bfloat16_ragged_batch(name: str) -> None:
    model = tiny.build(name).to(torch.bfloat16)
    inputs = tiny.prompts(tiny.build(name), name, (1, 2, 0))
    inputs["pixel_values"] = inputs["pixel_values"].to(torch.bfloat16)
    out = carved(model, inputs, return_dict_in_generate=True, output_logits=True)
    assert all(torch.isfinite(step).all() for step in out.logits)
    assert out.past_key_values.layers[-1].keys.dtype == torch.bfloat16


def test_tuple_outputs_report_the_cache(llava: Any) -> None:
    inputs = tiny.prompts(llava, "llava", (1,))
    with foveate.attach(llava, CARVE) as run, torch.no_grad():
        out = llava(**inputs, return_dict=False)
    assert isinstance(out, tuple)
    assert run.report is not None
    assert run.report.kv_ratio is not None
    assert run.report.kv_ratio < 1


def test_inner_model_can_be_attached(llava: Any) -> None:
    """AutoModel classes without a language head work too."""
    inputs = tiny.prompts(llava, "llava", (1,))
    with foveate.attach(llava.model, CARVE) as run, torch.no_grad():
        hidden = llava.model(**inputs).last_hidden_state
    assert run.report is not None
    assert hidden.shape[1] == run.report.length_after


def test_wrapped_model(llava: Any) -> None:
    """A PEFT-like wrapper is looked through, and its generate is guarded."""

    class Wrapper(torch.nn.Module):
        def __init__(self, model: Any) -> None:
            super().__init__()
            self.inner = model

        def get_base_model(self) -> Any:
            return self.inner

        def generate(self, **kwargs: Any) -> Any:
            return self.inner.generate(**kwargs)

    inputs = tiny.prompts(llava, "llava", (1,))
    expected = carved(llava, inputs)
    wrapper = Wrapper(llava)
    with foveate.attach(wrapper, CARVE):
        assert torch.equal(wrapper.generate(**inputs, **GREEDY), expected)
        with pytest.raises(UnsupportedModeError, match="prefill_chunk_size"):
            wrapper.generate(**inputs, **GREEDY, prefill_chunk_size=8)


def test_accelerate_offloading(llava: Any) -> None:
    """Models whose weights accelerate moves in and out at every layer."""
    accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")
    inputs = tiny.prompts(llava, "llava", (1, 2))
    expected = carved(llava, inputs)
    offloaded = accelerate.cpu_offload(tiny.build("llava"), execution_device=torch.device("cpu"))
    assert torch.equal(carved(offloaded, inputs), expected)


def test_images_and_videos_in_one_prompt() -> None:
    model = tiny.build("qwen2_vl")
    image = tiny.prompts(model, "qwen2_vl", (1,))
    video = tiny.prompts(model, "qwen2_vl", (1,), video=True)
    both = {
        key: torch.cat([image[key], video[key]], dim=1)
        for key in ("input_ids", "attention_mask", "mm_token_type_ids")
    }
    for source in (image, video):
        both |= {k: v for k, v in source.items() if "pixel" in k or "grid" in k}
    with foveate.attach(model, CARVE) as run:
        model.generate(**both, **GREEDY)
    assert run.report is not None
    assert [(i.kind, i.before) for i in run.report.images] == [("image", 16), ("video", 27)]
