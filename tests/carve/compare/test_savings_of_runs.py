"""What is saved is physically saved, and measuring it costs no attention matrix."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlavaForConditionalGeneration

import foveate
from benchmarks.random_decoder import random_llama
from tests import tiny_vlm as tiny

SYSTEM, IMAGE, QUESTION = 36, 576, 40
LENGTH = SYSTEM + IMAGE + QUESTION


@pytest.fixture(scope="module")
def llama() -> Any:
    return random_llama({**tiny.TEXT, "num_hidden_layers": 4}, seed=0)


def visual_mask() -> torch.Tensor:
    mask = torch.zeros(1, LENGTH, dtype=torch.bool)
    mask[:, SYSTEM : SYSTEM + IMAGE] = True
    return mask


@pytest.mark.parametrize("keep", [192, 128, 64])
def test_kv_ratio_is_exact(llama: Any, keep: int) -> None:
    method = foveate.TokenCarve(keep_tokens=keep)
    with foveate.attach(llama, method, visual_mask=visual_mask()) as run, torch.no_grad():
        cache = llama(inputs_embeds=torch.randn(1, LENGTH, 48)).past_key_values
    held = sum(t.numel() * t.element_size() for c in cache.layers for t in (c.keys, c.values))
    storages = sum(t.untyped_storage().nbytes() for c in cache.layers for t in (c.keys, c.values))
    assert run.report is not None
    assert run.report.kv_bytes == held == storages
    assert held * LENGTH == run.report.kv_bytes_uncompressed * (LENGTH - IMAGE + keep)


def test_full_early_cache_holds_more(llama: Any) -> None:
    sizes = []
    for early_cache in ("compact", "full"):
        method = foveate.TokenCarve(keep_tokens=64, early_cache=early_cache)  # type: ignore[arg-type]
        with foveate.attach(llama, method, visual_mask=visual_mask()) as run, torch.no_grad():
            llama(inputs_embeds=torch.randn(1, LENGTH, 48))
        assert run.report is not None
        sizes.append(run.report.kv_ratio)
    assert sizes[0] == pytest.approx(140 / 652)
    assert sizes[1] == pytest.approx((2 * 652 + 2 * 140) / (4 * 652))


class LargestMatrix(TorchDispatchMode):
    """Remembers every result that is a matrix of `length` by `length`."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = length
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for result in out if isinstance(out, tuple | list) else [out]:
            if isinstance(result, torch.Tensor) and result.shape[-2:] == (self.length,) * 2:
                self.found.append(str(func))
        return out


@pytest.fixture(scope="module")
def llava() -> Any:
    """A tiny LLaVA whose images are 24 x 24 visual tokens."""
    config = tiny.llava_config()
    config.vision_config.image_size = 96
    config.image_seq_length = IMAGE
    torch.manual_seed(0)
    return LlavaForConditionalGeneration._from_config(config, attn_implementation="sdpa").eval()


@pytest.mark.parametrize(
    "name", [n for n in foveate.METHODS if n not in ("stack", "text-share", "pixelprune")]
)
def test_no_attention_matrix(llava: Any, name: str) -> None:
    """Neither in the language model nor in the vision tower, whose sequence is 577 long."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(1, 3, 96, 96, generator=generator)
    ids = torch.full((1, LENGTH), 5)
    ids[:, SYSTEM : SYSTEM + IMAGE] = tiny.IMAGE_ID
    settings = {} if name == "noop" else {"keep_tokens": 64}
    watches = [LargestMatrix(LENGTH), LargestMatrix(IMAGE + 1)]
    method = foveate.method(name, **settings)
    with foveate.attach(llava, method) as run, torch.no_grad(), watches[0], watches[1]:
        llava(input_ids=ids, pixel_values=pixels)
    assert run.report is not None
    assert run.report.fired == (name not in ("noop", "evs", "dtd"))  # a still image stays whole
    assert [watch.found for watch in watches] == [[], []]


def test_the_watch_sees_an_attention_matrix() -> None:
    """The control: eager attention does make one."""
    eager = random_llama({**tiny.TEXT, "num_hidden_layers": 1}, seed=0)
    eager.set_attn_implementation("eager")
    watch = LargestMatrix(LENGTH)
    with torch.no_grad(), watch:
        eager(inputs_embeds=torch.randn(1, LENGTH, 48))
    assert watch.found
