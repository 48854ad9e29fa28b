"""What one call learns is gone with it: copies, prompts without a cache, masks, beams, reports."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import foveate
from foveate.core.precision import full_precision
from foveate.core.visual import VisualTokens
from foveate.errors import AttachError, UnsupportedModeError
from foveate.models import attachment
from tests import tiny_vlm as tiny
from tests.vist import tiny_vist
from tests.vist.tiny_vist import ids

# pixelprune takes no budget, and other towers: tests/carve/tower/test_drop.py.
BUDGETED = [n for n in foveate.METHODS if n not in ("noop", "stack", "text-share", "pixelprune")]

CARVE = foveate.TokenCarve(keep_ratio=0.4)
GREEDY = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
READS_TOWER = foveate.VisionZip(keep_ratio=0.4)
IN_TOWER = foveate.method("tome", keep_ratio=0.5)


@pytest.fixture(scope="module")
def llava() -> Any:
    return tiny.build("llava")


# --- deep copies ---


@pytest.mark.parametrize("method", [CARVE, READS_TOWER, IN_TOWER], ids=lambda method: method.name)
def test_a_copy_of_an_attached_model_is_a_plain_model_of_its_own(method: foveate.Method) -> None:
    model = tiny.build("llava")
    inputs = tiny.prompts(model, "llava", (1, 2, 0))
    plain = model.generate(**inputs, **GREEDY)
    with foveate.attach(model, method) as run:
        carved = model.generate(**inputs, **GREEDY)
        twin = copy.deepcopy(model)
        num_reports = len(run.reports)
        assert torch.equal(twin.generate(**inputs, **GREEDY), plain)
        with torch.no_grad():
            twin(**inputs)
            for weight in twin.parameters():
                weight.mul_(1.5)
            other = twin(**inputs).logits
            assert torch.equal(model.generate(**inputs, **GREEDY), carved), "its own weights moved"
        assert len(run.reports) == num_reports + 1, "the copy was carved"
        with foveate.attach(twin, method) as own, torch.no_grad():
            short = twin(**inputs).logits
            assert own.report is not None
            assert own.report.fired
        assert short.shape != other.shape
        with torch.no_grad():
            assert torch.equal(twin(**inputs).logits, other)
    assert torch.equal(model.generate(**inputs, **GREEDY), plain)


def test_an_attached_model_is_not_pickled(llava: Any) -> None:
    with foveate.attach(llava, CARVE), pytest.raises(AttachError, match="cannot be pickled"):
        pickle.dumps(llava)


# --- calls without a cache ---


def test_a_call_without_a_cache_knows_nothing_of_the_one_before(llava: Any) -> None:
    inputs = tiny.prompts(llava, "llava", (1,))
    alone, after = [], []
    with foveate.attach(llava, CARVE), torch.no_grad():
        for token in (5, 61):
            alone.append(llava(**longer(inputs, token), use_cache=False).logits[:, -1])
        llava(**inputs, use_cache=False)
        for token in (5, 61):
            after.append(llava(**longer(inputs, token), use_cache=False).logits[:, -1])
    for a, b in zip(alone, after, strict=True):
        assert torch.equal(a, b)


def test_one_prompt_asks_for_its_decisions_again(llava: Any) -> None:
    """As generate without a cache does."""
    inputs = tiny.prompts(llava, "llava", (1,))
    with foveate.attach(llava, CARVE) as run, torch.no_grad():
        expected = llava.generate(**inputs, **GREEDY, use_cache=False)
        grown = inputs
        with run.one_prompt():
            for _ in range(GREEDY["max_new_tokens"]):
                token = int(llava(**grown, use_cache=False).logits[0, -1].argmax())
                grown = longer(grown, token)
    assert torch.equal(grown["input_ids"], expected)
    assert len(run.reports) == 2


def test_several_tokens_at_once_are_of_the_same_prompt(llava: Any) -> None:
    """As a second turn is, which a cache would have seen without deciding anew."""
    inputs = tiny.prompts(llava, "llava", (1,))
    more = (5, 61, 7, 30)
    with foveate.attach(llava, CARVE) as run, torch.no_grad():
        grown = inputs
        for token in more:
            grown = longer(grown, token)
        cache = llava(**inputs).past_key_values
        text = {name: grown[name] for name in ("input_ids", "attention_mask")}
        text["input_ids"] = text["input_ids"][:, -len(more) :]
        expected = llava(**text, past_key_values=cache).logits
        with run.one_prompt():
            llava(**inputs, use_cache=False)
            num_reports = len(run.reports)
            found = llava(**grown, use_cache=False).logits[:, -len(more) :]
        assert len(run.reports) == num_reports
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def longer(inputs: dict[str, Any], token: int) -> dict[str, Any]:
    one = torch.ones_like(inputs["input_ids"][:, :1])
    return {
        **inputs,
        "input_ids": torch.cat([inputs["input_ids"], token * one], dim=1),
        "attention_mask": torch.cat([inputs["attention_mask"], one], dim=1),
    }


# --- one draw a prompt ---


def kept(run: foveate.Run) -> list[list[int]]:
    return [entry.plan.keep_idx[0].tolist() for entry in run.plans if entry.plan is not None]


@pytest.mark.parametrize(
    "settings",
    [{"num_beams": 3}, {"do_sample": True, "num_return_sequences": 3}],
    ids=["beams", "sequences"],
)
def test_beams_of_a_prompt_see_the_same_image(llava: Any, settings: dict[str, Any]) -> None:
    inputs = tiny.prompts(llava, "llava", (1, 2))
    with foveate.attach(llava, foveate.RandomTokens(keep_ratio=0.4)) as run:
        llava.generate(**inputs, **GREEDY)
        once = kept(run)
        llava.generate(**inputs, **{**GREEDY, **settings})
        assert kept(run) == once
        assert run.report is not None
        assert [(image.sample, image.image) for image in run.report.images] == [
            (0, 0), (1, 0), (1, 1),
        ]  # fmt: skip
        for rows in run.decisions.values():
            assert sum(group.plan.num_images for group in rows) == 9, "every row is carved"
        llava.generate(**tiny.row_of(inputs, llava, "llava", 1, (1, 2)), **GREEDY)
        assert kept(run) == once[1:], "the draw is the prompt's, whatever stands beside it"
    with foveate.attach(llava, foveate.RandomTokens(keep_ratio=0.4, seed=1)) as run:
        llava.generate(**inputs, **GREEDY)
        assert kept(run) != once
    assert len(set(map(str, once))) == 3, "different images, different draws"


# --- guessed placeholders ---


@pytest.mark.parametrize("name", ["llava", "qwen2_vl", "smolvlm", "paligemma", "gemma3"])
def test_a_guessed_placeholder_is_no_image(name: str) -> None:
    """Prompt lookup copies from the prompt, placeholders included."""
    model = tiny.build(name)
    inputs = tiny.prompts(model, name, (1,))
    own = inputs["input_ids"][0]
    first = int((own == tiny.IMAGE_ID).nonzero()[0])
    # The prompt ends as the text before the image does, so that lookup goes on with the image.
    inputs["input_ids"][0, -2:] = own[first - 2 : first]
    with foveate.attach(model, CARVE) as run:
        plain = model.generate(**inputs, **GREEDY)
        guessed = model.generate(
            **inputs, **GREEDY, prompt_lookup_num_tokens=5, max_matching_ngram_size=2
        )
    assert torch.equal(guessed, plain)
    assert len(run.reports) == 2


# --- explicit masks ---


def test_a_mask_is_not_for_another_prompt_of_its_length() -> None:
    llm = tiny_vist.model()
    prompt, other = ids(12, 1)[None], ids(12, 2)[None]
    is_visual = torch.zeros(1, 12, dtype=torch.bool)
    is_visual[:, 2:9] = True
    method = foveate.DivPrune(keep_tokens=3)
    with torch.no_grad():
        plain = llm(other).logits
    with foveate.attach(llm, method, visual_mask=is_visual) as run, torch.no_grad():
        llm(prompt)
        again = llm(prompt).logits
        assert again.shape[1] == 12 - 4
        with pytest.raises(UnsupportedModeError, match=r"assign run\.visual_mask for each prompt"):
            llm(other)
        run.visual_mask = torch.zeros_like(is_visual)
        assert torch.equal(llm(other).logits, plain)
        run.visual_mask = is_visual
        assert llm(other).logits.shape[1] == 12 - 4


@pytest.mark.parametrize("name", ["llava", "gemma3"])
def test_embeddings_of_text_are_left_alone_under_a_mask(name: str) -> None:
    model = tiny.build(name)
    embed = model.get_input_embeddings()
    text = embed(torch.tensor([tiny.text(20, 1), tiny.text(20, 2)])).detach()
    is_visual = torch.zeros(1, 20, dtype=torch.bool)
    is_visual[:, 3:15] = True
    images = text.clone()
    images[0, 3:15] = torch.randn(12, text.shape[-1]) * text.std()
    with torch.no_grad():
        plain = model(inputs_embeds=text).logits
    with foveate.attach(model, CARVE, visual_mask=is_visual) as run, torch.no_grad():
        model(inputs_embeds=images)
        assert [(entry.span.sample, entry.span.num_tokens) for entry in run.plans] == [(0, 12)]
        assert torch.equal(model(inputs_embeds=text).logits, plain)
        assert run.report is not None
        assert not run.report.fired


# --- past the hooks ---


def test_a_decoder_called_by_hand_is_refused(llava: Any) -> None:
    embeds = torch.randn(1, 9, 48)
    decoder = llava.base_model.language_model
    with (
        foveate.attach(llava, CARVE),
        pytest.raises(UnsupportedModeError, match="called past LlavaModel"),
    ):
        decoder(inputs_embeds=embeds)
    decoder(inputs_embeds=embeds)


def test_compiling_in_place_is_refused() -> None:
    model = tiny.build("llava")
    inputs = tiny.prompts(model, "llava", (1,))
    with foveate.attach(model, CARVE):
        model.compile(backend="eager")
        with pytest.raises(UnsupportedModeError, match="is compiled"):
            model(**inputs)
    with pytest.raises(UnsupportedModeError, match="is compiled"):
        foveate.attach(model, CARVE)
    model._compiled_call_impl = None
    with foveate.attach(model, CARVE) as run, torch.no_grad():
        model(**inputs)
    assert run.report is not None


def test_continuous_batching_is_refused(llava: Any) -> None:
    with (
        foveate.attach(llava, CARVE),
        pytest.raises(UnsupportedModeError, match="continuous batching"),
    ):
        llava.generate_batch([[1, 5, 6]])
    assert "generate_batch" not in vars(llava)


@pytest.mark.parametrize("where", ["cpu", "disk"])
def test_text_embeddings_are_known_where_the_vocabulary_is_offloaded(
    where: str, tmp_path: Path
) -> None:
    accelerate = pytest.importorskip("accelerate")
    model = tiny.build("llava")
    is_visual = torch.zeros(1, 20, dtype=torch.bool)
    is_visual[0, 3:13] = True
    text = model.get_input_embeddings()(torch.randint(3, 80, (1, 20))).detach()
    if where == "cpu":
        accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    else:
        accelerate.disk_offload(model, str(tmp_path), execution_device=torch.device("cpu"))
    with foveate.attach(model, CARVE, visual_mask=is_visual), torch.no_grad():
        assert model(inputs_embeds=text).logits.shape[1] == 20
        assert model(inputs_embeds=text + 1.0).logits.shape[1] == 14


# --- caches ---


def test_a_carved_cache_is_cropped_as_a_plain_one_is(llava: Any) -> None:
    """A positive size is refused by both, in a sentence; a negative count removes tokens."""
    inputs = tiny.prompts(llava, "llava", (1,))
    with foveate.attach(llava, CARVE), torch.no_grad():
        cache = llava(**inputs).past_key_values
        with pytest.raises(ValueError, match="pass the negative number of tokens"):
            cache.crop(10)
        before = cache.get_seq_length()
        cache.crop(-2)
        assert cache.get_seq_length() == before - 2


def test_a_sliding_cache_is_not_cropped_into_what_it_has_forgotten() -> None:
    """As a plain one: without a recording, the window after it would lack its first tokens."""
    model = tiny.build("gemma3")  # windows of 12
    inputs = tiny.prompts(model, "gemma3", (1,))
    with foveate.attach(model, CARVE), torch.no_grad():
        out = model.generate(**inputs, **GREEDY, return_dict_in_generate=True, output_logits=True)
        with pytest.raises(UnsupportedModeError, match="has forgotten"):
            out.past_key_values.crop(-3)
        cache = transformers.DynamicCache(config=model.config.get_text_config())
        cache.activate_past_recording()
        again = model.generate(**inputs, **GREEDY, past_key_values=cache)
        assert torch.equal(again, out.sequences)
        cache.crop(-2)
        length = cache.get_seq_length()
        told = {name: inputs[name][:, :1].expand(-1, length + 1) for name in ("attention_mask",)}
        logits = model(
            input_ids=again[:, length : length + 1], past_key_values=cache, **told
        ).logits
    grown = again.shape[1] - inputs["input_ids"].shape[1]
    step = length - again.shape[1] + grown + 1
    torch.testing.assert_close(logits[:, -1], out.logits[step], atol=1e-5, rtol=1e-5)


# --- reports ---


def test_reports_do_not_grow_without_bound(llava: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attachment, "MOST_REPORTS", 3)
    inputs = tiny.prompts(llava, "llava", (1,))
    with foveate.attach(llava, CARVE) as run, torch.no_grad():
        for _ in range(5):
            llava(**inputs)
    assert len(run.reports) == 3
    assert run.report is run.reports[-1]


# --- precision ---


@pytest.mark.parametrize("name", BUDGETED)
def test_the_callers_autocast_does_not_choose(name: str) -> None:
    """The same hidden states, with and without autocast around: the same tokens are kept."""
    generator = torch.Generator().manual_seed(3)
    drawn = torch.randn(2, 64, 32, generator=generator)
    entering = VisualTokens(
        hidden=torch.randn(2, 64, 32, generator=generator),
        text=torch.randn(2, 5, 32, generator=generator),
        text_mask=torch.ones(2, 5, dtype=torch.bool),
    )
    visual = VisualTokens(
        hidden=drawn,
        entering=entering,
        keys=torch.randn(2, 64, 16, generator=generator),
        text_keys=torch.randn(2, 5, 16, generator=generator),
        normed=drawn,
        text_normed=entering.text,
        attention=torch.rand(2, 4, 64, generator=generator),
        attention_output=torch.randn(2, 64, 32, generator=generator),
        text=torch.randn(2, 5, 32, generator=generator),
        text_mask=torch.ones(2, 5, dtype=torch.bool),
        text_attention=torch.rand(2, 5, 64, generator=generator),
        vision_attention=torch.rand(2, 64, generator=generator),
        vision_keys=torch.randn(2, 64, 32, generator=generator),
        vision_received=torch.rand(2, 64, generator=generator),
        vision_attention_early=torch.rand(2, 64, generator=generator),
        vision_received_early=torch.rand(2, 64, generator=generator),
        vision_features=torch.randn(2, 64, 32, generator=generator),
        layer_update=torch.randn(2, 64, 32, generator=generator),
        owners=torch.arange(64).expand(2, -1) // 2 * 2,
        serials=(0, 1),
    )
    method = foveate.method(name, keep_tokens=12)
    plain = method.select(visual, 12).keep_idx
    with torch.autocast("cpu", dtype=torch.bfloat16), full_precision(visual.hidden.device):
        assert torch.equal(method.select(visual, 12).keep_idx, plain)


@pytest.mark.parametrize("name", ["divprune", "mmtok", "tokencarve", "cdpruner"])
def test_a_run_selects_outside_of_what_the_caller_allows(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny.build("llava")
    inputs = tiny.prompts(model, "llava", (1,))
    method = foveate.method(name, keep_ratio=0.4, prune_layer=1)
    seen = []
    select = type(method).select

    def spy(self: Any, visual: Any, keep: int) -> Any:
        seen.append((visual, keep))
        assert not torch.is_autocast_enabled("cpu")
        assert torch.backends.mkldnn.matmul.fp32_precision == "ieee"  # type: ignore[attr-defined]
        return select(self, visual, keep)

    before = torch.get_float32_matmul_precision()
    monkeypatch.setattr(type(method), "select", spy)  # inherited: put back, it would be its own
    torch.set_float32_matmul_precision("medium")
    try:
        with foveate.attach(model, method), torch.autocast("cpu", dtype=torch.bfloat16):
            model(**inputs)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert seen


def test_autocast_would_choose() -> None:
    """Without the guard the same comparison fails, so it can."""
    drawn = torch.randn(2, 64, 32, generator=torch.Generator().manual_seed(3))
    visual, method = VisualTokens(hidden=drawn), foveate.DivPrune(keep_tokens=12)
    plain = method.select(visual, 12).keep_idx
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not torch.equal(method.select(visual, 12).keep_idx, plain)


# --- weights that are elsewhere ---


def test_an_offloaded_tower_is_not_resized(tmp_path: Path) -> None:
    from accelerate import disk_offload

    model = tiny.build("llava")
    inputs = tiny.prompts(model, "llava", (1,))
    resize = foveate.method("resize", keep_ratio=0.25)
    with foveate.attach(model, CARVE), torch.no_grad():
        expected = model(**inputs).logits
    disk_offload(model, tmp_path, execution_device=torch.device("cpu"))
    with foveate.attach(model, CARVE), torch.no_grad():
        assert torch.equal(model(**inputs).logits, expected)
    with pytest.raises(UnsupportedModeError, match="offloaded and not there"):
        foveate.attach(model, resize)


@pytest.mark.parametrize("family", ["llava", "gemma3"])
def test_a_cache_that_was_reset_takes_another_prompt(family: str) -> None:
    model = tiny.build(family)
    first, second = (tiny.prompts(model, family, images) for images in ((2,), (1,)))
    with foveate.attach(model, foveate.FastV(keep_tokens=4)), torch.no_grad():
        want = model(**second, past_key_values=transformers.DynamicCache()).logits
        cache = transformers.DynamicCache()
        model(**first, past_key_values=cache)
        cache.reset()
        got = model(**second, past_key_values=cache).logits
    torch.testing.assert_close(got, want)
