"""The teacher's states are what the LLM's own attention reads."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from foveate.vist.fusion.prefix import compute_prefix, decoder_of
from foveate.vist.latents.memory import MemoryBatch
from foveate.vist.train.distillation import gather_states, pair_error
from foveate.vist.train.teacher import (
    memory_keys_values,
    recorded_states,
    teacher_keys_values,
    teacher_states,
)
from tests.vist import tiny_vist
from tests.vist.train.tiny import recipe, trainer

FAMILIES = ["llama", "qwen3", "smollm3"]


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_states_are_the_normed_inputs(family: str) -> None:
    llm = tiny_vist.model(family)
    anatomy = decoder_of(llm)
    ids = tiny_vist.ids(12)[None]
    taught = teacher_states(anatomy, ids, context=(1, 9), score_last=3)
    output = llm(ids, output_hidden_states=True)
    for layer, states, hidden in zip(
        anatomy.layers, taught.layers, output.hidden_states, strict=False
    ):
        tiny_vist.assert_close(states, layer.input_layernorm(hidden)[:, 1:9])
    assert taught.tail is not None
    tiny_vist.assert_close(llm.lm_head(taught.tail), output.logits[:, -4:-1])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_memory_of_the_teacher_s_own_states_has_no_error(family: str) -> None:
    """With exact states in their places the prefix is the raw text's KV: nothing left to learn."""
    llm = tiny_vist.model(family)
    anatomy = decoder_of(llm)
    ids = tiny_vist.ids(12)[None]
    taught = teacher_states(anatomy, ids, context=(1, 9), score_last=0)
    members = torch.tensor([[[1], [4], [5], [7]]])
    states = [gather_states(s, members) for s in taught.layers]
    made = tiny_vist.vist(llm, "states")

    class Exact(type(made.parts.fusion.prefix)):  # type: ignore[misc]
        def forward(self, latents: torch.Tensor) -> list[torch.Tensor]:
            return states

    made.parts.fusion.prefix.__class__ = Exact
    positions = members[..., 0].float()
    mask = torch.ones(1, 4, dtype=torch.bool)
    batch = MemoryBatch(
        latents=torch.zeros(1, 4, tiny_vist.WIDTH), mask=mask, positions=positions, num_tokens=(8,)
    )
    head = made.embed(ids[:, :1])
    with torch.no_grad(), recorded_states(anatomy, (0, 4)) as seen:
        prefix = compute_prefix(
            anatomy, made.parts.fusion, batch, [8], head, torch.ones(1, 1, dtype=torch.bool)
        )
        found = memory_keys_values(anatomy, prefix, positions + 1)
        wanted = teacher_keys_values(anatomy, states)
    assert pair_error(found, wanted, mask).item() < 1e-9
    for layer, states_seen in seen.items():
        tiny_vist.assert_close(states_seen, states[layer])
    assert len(memory_keys_values(anatomy, prefix, positions + 1, skip_layers=1)) == len(found) - 1


def test_a_teacher_in_half_precision_says_nearly_the_same(tmp_path: Path) -> None:
    """What a copy in bfloat16 teaches differs by its rounding, not by more; the model stays."""
    base = recipe(steps=1)
    half = dataclasses.replace(
        base, model=dataclasses.replace(base.model, teacher_dtype="bfloat16")
    )
    found = []
    for name, wanted in (("full", base), ("half", half)):
        run = trainer(wanted, tmp_path / name)
        taught = run.frozen.inputs(run._batch(), states=True, score_last=8, features=False)
        assert taught.states is not None
        assert next(run.vist.model.parameters()).dtype == torch.float32
        found.append((torch.stack(taught.states), taught.tail))
    (states, tail), (rough_states, rough_tail) = found
    assert rough_states.dtype == torch.float32
    for exact, rough in ((states, rough_states), (tail, rough_tail)):
        error = float((exact - rough).norm() / exact.norm())
        assert 1e-5 < error < 0.02, error
