"""What a carved pass asks of a device beyond the plain one: next to no waiting, few launches."""

from __future__ import annotations

import functools
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import DynamicCache

import foveate
from benchmarks.pretended import Counts, OnDevice, counting, move, move_model
from tests.tiny_vlm import VOCAB, build, prompts

METHODS = ("fastv", "tokencarve", "divprune", "visionzip")
# A pool that is chosen from on the host, and the number of its points. On CUDA Triton does without.
OF_THE_CHOICE = {"divprune": 1}
SHAPES = {"one prompt": [1], "ragged four": [2, 1, 1, 0]}
FAMILIES = ("llava", "gemma3")


class Moved:
    """A tiny model on the pretended device, and prompts for it."""

    def __init__(self, name: str, num_layers: int | None = None) -> None:
        self.model: Any = build(name) if num_layers is None else deep(num_layers)
        self.inputs = {shape: prompts(self.model, name, n) for shape, n in SHAPES.items()}
        move_model(self.model)

    def count(
        self, shape: str, method: str | foveate.Method | None, num_tokens: int = 3
    ) -> tuple[Counts, Counts]:
        """Of a prefill, and of the last of `num_tokens` decoded tokens."""
        given = self.inputs[shape]
        run: Any = nullcontext()
        if method is not None:
            if isinstance(method, str):
                method = foveate.method(method, keep_tokens=4)
            run = foveate.Run(self.model, method)
        cache = DynamicCache(config=self.model.config.get_text_config())
        mask = given["attention_mask"]
        with run, torch.no_grad():
            with counting() as prefill:
                self.model(**move(given), past_key_values=cache, logits_to_keep=1)
            for _ in range(num_tokens):
                mask = nn.functional.pad(mask, (0, 1), value=1)
                ids = torch.randint(3, VOCAB - 20, (len(mask), 1))
                with counting() as decoded:
                    self.model(
                        input_ids=move(ids), attention_mask=move(mask), past_key_values=cache
                    )
        if method is not None:
            assert run.report.fired
        return prefill, decoded


@functools.lru_cache(maxsize=2)
def moved_with(num_layers: int) -> Moved:
    return Moved("llava", num_layers)


def deep(num_layers: int) -> Any:
    model = build("llava")
    config = model.config
    config.text_config.num_hidden_layers = num_layers
    return type(model)(config).eval()


@pytest.fixture(scope="module", params=FAMILIES)
def moved(request: pytest.FixtureRequest) -> Moved:
    return Moved(request.param)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("method", METHODS)
def test_a_carved_prefill_waits_at_most_twice_more(moved: Moved, method: str, shape: str) -> None:
    plain, plain_token = moved.count(shape, None)
    carved, token = moved.count(shape, method)
    of_the_choice = OF_THE_CHOICE.get(method, 0)
    assert carved.num_waits <= plain.num_waits + 2 + of_the_choice, carved.waits
    assert token.num_waits <= plain_token.num_waits, token.waits


def test_reading_ahead_waits_for_masks_alone() -> None:
    """transformers itself reads two scalars to make the masks of a pass."""
    moved = Moved("llava")
    ahead, blind = (
        moved.count("one prompt", foveate.FoveaCarve(keep_ratio=0.25, foresight=foresight))[0]
        for foresight in (True, False)
    )
    assert ahead.num_launches > blind.num_launches + 50
    assert ahead.num_waits <= blind.num_waits + 2, (ahead.waits, blind.waits)


def test_a_planted_read_is_counted() -> None:
    moved = Moved("llava")

    def read(module: nn.Module, args: Any, output: Any) -> None:
        hidden: Tensor = output[0] if isinstance(output, tuple) else output
        assert isinstance(hidden, OnDevice)
        hidden.sum().item()

    before, _ = moved.count("one prompt", "fastv")
    moved.model.model.language_model.layers[0].register_forward_hook(read)
    after, token = moved.count("one prompt", "fastv")
    assert after.num_waits == before.num_waits + 1
    assert token.num_waits > 0


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("method", ["fastv", "divprune", "foveacarve"])
def test_what_a_token_costs_more_does_not_grow_with_layers(method: str, shape: str) -> None:
    extra = {}
    for num_layers in (4, 8):
        plain, carved = (moved_with(num_layers).count(shape, name)[1] for name in (None, method))
        extra[num_layers] = carved.num_launches - plain.num_launches
    assert extra[4] == extra[8] > 0
    assert extra[4] <= (3 if shape == "one prompt" else 35)
