"""A method behind one inside the vision tower: the masked path on what the shorter tower gave.

The slow path runs its own tower, which merges nothing: held to that, any such stack differs, and
nothing is wrong with it. So its decoder is given the embeddings that the fast path's was given.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

import foveate
from foveate.carve.spec import parse_method
from foveate.core.budget import Budget
from tests import tiny_vlm as tiny
from tests.carve.oracle.masked import decoder_of, masked_steps
from tests.carve.oracle.test_pruned_equals_masked import GREEDY, assert_close, extended
from tests.carve.oracle.test_steps_equal_masked import VISUAL, steps_of


@contextmanager
def hooked(model: Any, hook: Any) -> Iterator[None]:
    handle = decoder_of(model).register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize("num_images", [(1,), (1, 2, 0)], ids=["single", "ragged"])
@pytest.mark.parametrize(
    "behind",
    [
        "foveacarve(depths=(0.625,))",
        "foveacarve(depths=(0.4,0.8))",
        "divprune(prune_layer=3)",
        "fastv(prune_layer=3)",
    ],
)
@pytest.mark.parametrize("inside", ["tome", "tome(sizes=log)", "resize"])
def test_equals_the_masked_path(inside: str, behind: str, num_images: tuple[int, ...]) -> None:
    model = tiny.build("llava")
    inputs = tiny.prompts(model, "llava", num_images)
    length = inputs["input_ids"].shape[1]
    given: list[Tensor] = []

    def take(module: Any, args: Any, kwargs: Any) -> None:
        given.append(kwargs["inputs_embeds"].clone())

    method = parse_method(f"{inside}:50%+{behind}", Budget(keep_ratio=0.25))
    with hooked(model, take), foveate.attach(model, method) as run:
        out = model.generate(**inputs, **GREEDY, suppress_tokens=VISUAL)
    new = model.get_input_embeddings()(out.sequences[:, length:-1])
    embeds = torch.cat([given[0], new], dim=1)

    def put(module: Any, args: Any, kwargs: Any) -> Any:
        return args, {**kwargs, "inputs_embeds": embeds}

    def slow(*hooks: Any) -> Tensor:
        with hooked(model, hooks[0]) if hooks else hooked(model, lambda *_: None):
            return masked_steps(
                model,
                extended(inputs, out.sequences[:, :-1]),
                steps_of(run),
                length,
                compact=method.members[-1].early_cache == "compact",
                counted="log" in inside,
            )[:, length - 1 :]

    fast = torch.stack(out.logits, dim=1)
    assert_close(fast, slow(put))
    assert (fast - slow()).abs().max() > 1e-3, "the tower makes no difference here"
