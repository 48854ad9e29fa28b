"""Prompts with answers behind them, ready for a training step on a tiny model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from foveate.carve.engine.run import Run
from tests import tiny_vlm as tiny
from tests.carve.oracle.masked import masked_loss
from tests.carve.oracle.test_pruned_equals_masked import assert_close
from tests.carve.oracle.test_steps_equal_masked import steps_of

RAGGED = (1, 2, 0)


def prompt_of(model: Any, name: str, num_images: tuple[int, ...]) -> dict[str, Any]:
    """A batch of prompts, pixels in the model's precision."""
    inputs = tiny.prompts(tiny.build(name), name, num_images)
    return {
        key: value.to(model.dtype) if value.is_floating_point() else value
        for key, value in inputs.items()
    }


def answered(model: Any, name: str, num_images: tuple[int, ...] = RAGGED) -> dict[str, Any]:
    """A ragged batch: prompts padded on the left, answers of 5, 4, ... tokens on the right."""
    prompt = prompt_of(model, name, num_images)
    batch = len(num_images)
    lengths = [5 - sample for sample in range(batch)]
    answers = torch.zeros(batch, 5, dtype=torch.long) + tiny.PAD_ID
    mask = torch.zeros_like(answers)
    for sample, length in enumerate(lengths):
        answers[sample, :length] = torch.tensor(tiny.text(length, 50 + sample))
        mask[sample, :length] = 1
    out = {
        **prompt,
        "input_ids": torch.cat([prompt["input_ids"], answers], dim=1),
        "attention_mask": torch.cat([prompt["attention_mask"], mask], dim=1),
    }
    for key in ("mm_token_type_ids", "token_type_ids"):
        if key in prompt:
            # PaliGemma reads type 0 in both directions: an answer there would see itself.
            fill = torch.full_like(answers, int(name == "paligemma"))
            out[key] = torch.cat([prompt[key], fill], dim=1)
    return out


def answers_only(inputs: dict[str, Any]) -> Tensor:
    """Labels on the answers, as fine-tuning has them."""
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    labels[:, :-5] = -100
    return labels


def everything(inputs: dict[str, Any]) -> Tensor:
    """Labels on all that is not padding, placeholders included."""
    ids: Tensor = inputs["input_ids"]
    return ids.masked_fill(inputs["attention_mask"] == 0, -100)


def gradients(model: Any, loss: Tensor) -> dict[str, Tensor]:
    """Gradient of every parameter that got one; the model is left without any."""
    model.zero_grad()
    loss.backward()
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def assert_same_step(model: Any, loss: Tensor, slow: Tensor, tolerance: float = 1e-5) -> None:
    """Two losses and all their gradients are equal."""
    assert_close(loss.detach(), slow.detach(), tolerance)
    fast, expected = gradients(model, loss), gradients(model, slow)
    assert fast.keys() == expected.keys()
    for name, gradient in expected.items():
        difference = (fast[name] - gradient).abs().max()
        assert difference <= tolerance * max(1.0, float(gradient.abs().max())), (
            f"{name}: {difference:.2e}"
        )


def oracle(model: Any, inputs: dict[str, Any], labels: Tensor, run: Run, **settings: Any) -> Tensor:
    """The masked oracle's loss for what a run did last; call it when the run is detached."""
    assert not run.attached
    return masked_loss(model, inputs, labels, steps_of(run), **settings)
