"""A memory held by the KV cache gives what one put in front at every pass gives, and is guarded."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import DynamicCache

from foveate.errors import InputError, MemoryCacheError, UnsupportedModeError
from foveate.vist.fusion import fuse
from foveate.vist.fusion.memory_cache import MemoryLayer, can_hold
from foveate.vist.run import attached
from tests.vist import tiny_vist
from tests.vist.tiny_vist import FAMILIES, assert_close, ids, memory

FORMS = ("lora", "states")
PREFILL, STEPS = 30, 4  # longer than the sliding windows of 24

pytestmark = pytest.mark.usefixtures("without_gradient")


@pytest.fixture
def in_front_at_every_pass(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Run something with caches that hold raw text only."""

    def run(call: Callable[..., Any], *args: Any) -> Any:
        with monkeypatch.context() as patch:
            for module in (fuse, attached):
                patch.setattr(module, "can_hold", lambda cache: False)
            return call(*args)

    return run


def steps(llm: Any, cache: Any, text: Tensor, mask: Tensor | None, counts: list[int]) -> Any:
    """Logits of passes over as many columns of the text as `counts` says, -n to crop n off."""
    logits, done = [], cache.get_seq_length() if cache is not None else 0
    for count in counts:
        if count < 0:
            cache.crop(count)
            done += count
            continue
        seen = None if mask is None else mask[:, : done + count]
        new = text[:, done : done + count]
        out = llm(new, attention_mask=seen, past_key_values=cache, use_cache=True)
        cache, done = out.past_key_values, done + count
        logits.append(out.logits)
    return torch.cat(logits, dim=1), cache


def held_by(cache: Any) -> set[bool]:
    return {isinstance(layer, MemoryLayer) for layer in cache.layers}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("is_ragged", [False, True])
def test_held_equals_in_front_at_every_pass(
    family: str,
    form: str,
    attention: str,
    is_ragged: bool,
    in_front_at_every_pass: Callable[..., Any],
) -> None:
    llm = tiny_vist.model(family, attention)
    vist = tiny_vist.vist(llm, form)
    text = torch.stack([ids(PREFILL + 9, seed) for seed in (1, 2, 3)])
    mems, mask = [memory(11, 40, 1), memory(11, 40, 4), memory(11, 70, 2)], None
    if is_ragged:
        mems = [memory(11, 40, 1), None, memory(5, 70, 2)]
        mask = torch.ones_like(text)
        mask[0, :4] = mask[2, :2] = 0
    # A prompt in two parts, tokens, several at once, and back into the prompt.
    counts = [PREFILL - 5, 5, 1, 1, 3, 1]
    with vist.attach(mems, memory_at=[1, 2, 3]):
        want, plain = in_front_at_every_pass(steps, llm, None, text, mask, counts)
        for cache in (None, DynamicCache(), DynamicCache(config=llm.config)):
            # Without a config no layer slides, and as many keys are kept as there are.
            got, cache = steps(llm, cache, text, mask, counts)
            real = torch.ones_like(text) if mask is None else mask
            real = real[:, : got.shape[1]].bool()
            assert_close(got[real], want[real])
            assert held_by(cache) == {True}
            assert cache.get_seq_length() == plain.get_seq_length()
            for ours, theirs in zip(cache.layers, plain.layers, strict=True):
                shown = theirs.keys.shape[2]
                assert_close(ours.keys[:, :, -shown:], theirs.keys)
    assert held_by(plain) == {False}
    without, _ = steps(llm, None, text, mask, counts)
    assert (without[real] - want[real]).abs().max() > 1e-2, "the memory must matter"


@pytest.mark.parametrize("records", [False, True])
def test_cropping(llm: Any, records: bool, in_front_at_every_pass: Callable[..., Any]) -> None:
    vist = tiny_vist.vist(llm, "states")
    text = torch.stack([ids(PREFILL + 9, seed) for seed in (1, 2)])
    # With windows that forget, all stays within them; else it goes back from beyond them.
    counts = [PREFILL, 1, 3, -2, 1, 3, -3, 2] if records else [12, 1, 3, -2, 1, -14, 3, 4]

    def run() -> Tensor:
        cache = DynamicCache(config=llm.config)
        if records:
            cache.activate_past_recording()
        return steps(llm, cache, text, None, counts)[0]

    with vist.attach([memory(11, 40, 1), memory(11, 50, 2)], memory_at=[1, 3]):
        assert_close(run(), in_front_at_every_pass(run))


@pytest.mark.parametrize(
    "mode",
    [
        {"num_beams": 3},
        {"num_beams": 3, "num_return_sequences": 3},
        {"prompt_lookup_num_tokens": 3},
    ],
    ids=str,
)
def test_generating(
    llm: Any, mode: dict[str, Any], in_front_at_every_pass: Callable[..., Any]
) -> None:
    vist = tiny_vist.vist(llm, "lora")
    is_batch = "num_beams" in mode
    prompts = torch.stack([ids(PREFILL, seed) for seed in ((1, 2) if is_batch else (1,))])
    mems = [memory(9, 50, 1), memory(4, 20, 2)] if is_batch else memory(9, 50)
    how = {"do_sample": False, "max_new_tokens": 12, "return_dict_in_generate": True, **mode}
    with vist.attach(mems, memory_at=2):
        want = in_front_at_every_pass(lambda: llm.generate(prompts, **how))
        got = llm.generate(prompts, **how)
    assert torch.equal(got.sequences, want.sequences)
    assert held_by(got.past_key_values) == {True}
    assert held_by(want.past_key_values) == {False}


def test_rows_change_places_with_their_memories(llama: Any) -> None:
    vist = tiny_vist.vist(llama, "states")
    text = torch.stack([ids(12, 1), ids(12, 2)])
    mems = [memory(9, 50, 1), memory(4, 20, 2)]
    with vist.attach(mems, memory_at=[1, 3]):
        want, cache = steps(llama, None, text, None, [8, 1])
        swapped, twice = copy.deepcopy(cache), copy.deepcopy(cache)
        want = llama(text[:, 9:], past_key_values=cache).logits
        swapped.reorder_cache(torch.tensor([1, 0]))
        got = llama(text[[1, 0], 9:], past_key_values=swapped).logits
        assert_close(got, want[[1, 0]])
        twice.batch_repeat_interleave(2)
        got = llama(text[[0, 0, 1, 1], 9:], past_key_values=twice).logits
        assert_close(got, want[[0, 0, 1, 1]])
        twice.batch_select_indices(torch.tensor([3, 0]))
        twice.crop(-3)
        got = llama(text[[1, 0], 9:], past_key_values=twice).logits
        assert_close(got, want[[1, 0]])


def test_a_cache_is_read_on_with_its_own_memory(llama: Any) -> None:
    vist = tiny_vist.vist(llama, "lora")
    first, second = ids(9, 1)[None], ids(14, 2)[None]
    with vist.attach(memory(9, 50), memory_at=2) as run:
        want = llama(first).logits[:, -1:]
        cache = llama(first[:, :-1]).past_key_values
        # Another prompt with another head comes in between.
        llama(second)
        assert_close(llama(first[:, -1:], past_key_values=copy.deepcopy(cache)).logits, want)
        plain = DynamicCache()
        run.detach()
        llama(first[:, :-1], past_key_values=plain)
        run.attach()
        llama(second)
        with pytest.raises(UnsupportedModeError, match="start from an empty cache"):
            llama(first[:, -1:], past_key_values=plain)
    with pytest.raises(MemoryCacheError, match="attach that run again"):
        llama(first[:, -1:], past_key_values=cache)
    with (
        vist.attach(None),
        pytest.raises(MemoryCacheError, match="the KV cache holds the memory of another run"),
    ):
        llama(first[:, -1:], past_key_values=cache)
    with (
        vist.attach(memory(9, 50), memory_at=2),
        pytest.raises(UnsupportedModeError, match="before this memory was attached"),
    ):
        llama(first[:, -1:], past_key_values=cache)
    with run:
        assert_close(llama(first[:, -1:], past_key_values=cache).logits, want)


def test_a_cache_that_was_reset_is_a_plain_one(llama: Any) -> None:
    vist = tiny_vist.vist(llama, "states")
    prompt = ids(9, 1)[None]
    plain = llama(prompt).logits
    cache = DynamicCache(config=llama.config)
    with vist.attach(memory(9, 50)):
        want = llama(prompt, past_key_values=cache).logits
        assert not torch.allclose(want, plain)
        cache.reset()
        assert_close(llama(prompt, past_key_values=cache).logits, want)
        cache.crop(-9)
        assert_close(llama(prompt, past_key_values=cache).logits, want)
    cache.reset()
    assert torch.equal(llama(prompt, past_key_values=cache).logits, plain)


def test_a_cache_cropped_to_no_text_still_holds_its_memory(llama: Any) -> None:
    vist = tiny_vist.vist(llama, "states")
    prompt = ids(9, 1)[None]
    cache = DynamicCache(config=llama.config)
    run = vist.attach(memory(9, 50))
    with run:
        llama(prompt, past_key_values=cache)
        cache.crop(-9)
        with pytest.raises(InputError, match="was cropped to none: give the whole prompt again"):
            llama(prompt[:, -1:], past_key_values=cache)
    with pytest.raises(MemoryCacheError, match=r"still holds a memory, .*crop\(\) leaves"):
        llama(prompt, past_key_values=cache)
    for nothing in (None, [None]):
        with (
            vist.attach(nothing),
            pytest.raises(MemoryCacheError, match="of another run, and the one that is attached"),
        ):
            llama(prompt, past_key_values=cache)


def test_a_first_pass_that_breaks_off_is_refused(llama: Any) -> None:
    vist = tiny_vist.vist(llama, "states")
    cache = DynamicCache(config=llama.config)
    prompt = ids(9, 1)[None]

    def fail(*args: Any) -> None:
        raise RuntimeError("out of memory")

    with vist.attach(memory(9, 50)):
        handle = llama.model.layers[2].register_forward_pre_hook(fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            llama(prompt, past_key_values=cache)
        handle.remove()
        with pytest.raises(MemoryCacheError, match="layer 2 of this KV cache holds no memory"):
            llama(prompt, past_key_values=cache)


class Operations(TorchDispatchMode):
    """Counts what is computed; views and bare allocations are free."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        returns = func._schema.returns
        is_view = any(r.alias_info is not None and not r.alias_info.is_write for r in returns)
        if not is_view:
            self.counts[func.overloadpacket.__name__] += 1
        return func(*args, **kwargs or {})


def operations(llm: Any, prompts: Tensor, mask: Tensor | None) -> Counter[str]:
    """Of one more token after prompts [B, S], called as `generate` calls."""
    cache = llm(prompts, attention_mask=mask).past_key_values
    batch, length = prompts.shape
    mask = None if mask is None else torch.nn.functional.pad(mask, (0, 1), value=1)
    places = torch.full((batch, 1), length)
    with Operations() as seen:
        llm(prompts[:, -1:], past_key_values=cache, attention_mask=mask, position_ids=places)
    return seen.counts


@pytest.mark.parametrize("is_ragged", [False, True])
def test_a_decoded_token_costs_what_it_costs_in_a_longer_cache(
    llm: Any, is_ragged: bool, in_front_at_every_pass: Callable[..., Any]
) -> None:
    prompts = torch.stack([ids(9, 1), ids(9, 2)])
    longer, mask, padded = torch.cat([prompts, prompts], dim=1), None, None
    mems = [memory(9, 50, 1), memory(9, 50, 2)]
    if is_ragged:
        mems[1] = memory(4, 30, 2)
        mask = torch.ones_like(prompts)
        mask[0, :2] = 0
        padded = torch.cat([mask, mask], dim=1)
    plain = operations(llm, longer, padded)
    with tiny_vist.vist(llm, "states").attach(mems):
        held = operations(llm, prompts, mask)
        in_front = in_front_at_every_pass(operations, llm, prompts, mask)
    assert plain - held == {}
    # Positions move on by the span, and a mask gets columns, once for all layers that share it.
    num_masks = len(set(getattr(llm.config, "layer_types", None) or [""]))
    assert held - plain == ({"add": 1, "cat": num_masks} if is_ragged else {"add": 1})
    assert in_front.total() - held.total() > 2 * len(llm.model.layers)


def test_what_cannot_hold_a_memory() -> None:
    assert can_hold(DynamicCache())
    assert not can_hold(None)
    assert not can_hold(DynamicCache(offloading=True))
