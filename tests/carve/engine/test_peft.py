"""PEFT's LoRA on an attached model: the wrapper is looked through, only the adapter learns."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

import foveate
from tests import tiny_vlm as tiny
from tests.carve.engine.test_trainer import Batches, trainer_for
from tests.carve.engine.test_training_step import trainable
from tests.carve.engine.training_batch import (
    answered,
    answers_only,
    assert_same_step,
    oracle,
    prompt_of,
)
from tests.carve.oracle.test_pruned_equals_masked import GREEDY

# PEFT and Trainer still ask by the older name, which transformers 5.23 warns of.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*gradient_checkpointing.* is deprecated:FutureWarning"
)
CARVE = foveate.TokenCarve(keep_ratio=0.4)


def adapted(name: str) -> Any:
    """A tiny model with a LoRA that already does something."""
    torch.manual_seed(0)
    settings = LoraConfig(r=4, target_modules=["q_proj", "v_proj", "o_proj"], lora_dropout=0.0)
    model = get_peft_model(trainable(name), settings).double()
    for key, parameter in model.named_parameters():
        if "lora_B" in key:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


@pytest.mark.parametrize("through", ["wrapper", "inner model"])
@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "gemma3"])
def test_step_equals_masked(name: str, through: str) -> None:
    model = adapted(name)
    inner = model.get_base_model()
    inputs = answered(inner, name)
    labels = answers_only(inputs)
    with foveate.attach(model if through == "wrapper" else inner, CARVE) as run:
        loss = model(**inputs, labels=labels).loss
    assert run.report is not None
    assert run.report.fired
    assert_same_step(inner, loss, oracle(inner, inputs, labels, run))


@pytest.mark.parametrize("checkpointed", [False, True])
def test_trainer_moves_the_adapter_alone(tmp_path: Path, checkpointed: bool) -> None:
    model = adapted("llava")
    before = copy.deepcopy(model.state_dict())
    batches = Batches(model.get_base_model(), "llava")
    trainer = trainer_for(model, batches, tmp_path, gradient_checkpointing=checkpointed)
    with foveate.attach(model, CARVE) as run:
        trainer.train()
    assert all(report.fired for report in run.reports)
    moved = {
        key for key, value in model.state_dict().items() if not torch.equal(value, before[key])
    }
    assert moved
    assert all("lora_" in key for key in moved)


def test_adapter_is_saved_and_generates_under_compression(tmp_path: Path) -> None:
    model = adapted("llava").eval()
    prompt = prompt_of(model.get_base_model(), "llava", (1, 1))
    with foveate.attach(model, CARVE) as run:
        said = model.generate(**prompt, **GREEDY)
    assert run.report is not None
    assert run.report.fired
    model.save_pretrained(tmp_path)
    assert (tmp_path / "adapter_model.safetensors").exists()
    loaded = PeftModel.from_pretrained(tiny.build("llava").double(), tmp_path).eval()
    with foveate.attach(loaded, CARVE):
        again = loaded.generate(**prompt, **GREEDY)
    assert torch.equal(said.sequences, again.sequences)
    plain = tiny.build("llava").double()
    with foveate.attach(plain, CARVE):
        other = plain.generate(**prompt, **GREEDY)
    assert (torch.stack(other.logits) - torch.stack(said.logits)).abs().max() > 1e-3
