"""transformers' Trainer on an attached model takes the steps of the masked oracle's gradients."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Trainer, TrainingArguments

import foveate
from tests.carve.engine.test_training_step import trainable
from tests.carve.engine.training_batch import answered, answers_only, gradients
from tests.carve.oracle.masked import masked_loss
from tests.carve.oracle.test_pruned_equals_masked import assert_close
from tests.carve.oracle.test_steps_equal_masked import steps_of

# Trainer itself calls gradient checkpointing by the older name, which transformers 5.23 warns of.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*gradient_checkpointing.* is deprecated:FutureWarning"
)
CARVE = foveate.TokenCarve(keep_ratio=0.4)
LEARNING_RATE, ACCUMULATED, STEPS = 0.01, 2, 2


class Batches(torch.utils.data.IterableDataset[dict[str, Any]]):
    """Whole batches, already collated; answers of the second are shorter."""

    def __init__(self, model: Any, name: str) -> None:
        self.batches = []
        for number in range(ACCUMULATED * STEPS):
            inputs = answered(model, name, (1, 1) if number % 2 else (1, 2, 0))
            labels = answers_only(inputs)
            if number % 2:
                labels[:, -3:] = -100
            self.batches.append({**inputs, "labels": labels})

    def __iter__(self) -> Any:
        return iter(self.batches)


def trainer_for(model: Any, batches: Batches, folder: Path, **settings: Any) -> Trainer:
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=LEARNING_RATE)
    return Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(folder),
            per_device_train_batch_size=1,
            gradient_accumulation_steps=ACCUMULATED,
            max_steps=STEPS,
            max_grad_norm=0.0,
            save_strategy="no",
            logging_steps=1,
            report_to=[],
            remove_unused_columns=False,
            use_cpu=True,
            disable_tqdm=True,
            dataloader_pin_memory=False,
            # Batches are whole: accelerate would cut all tensors to the length of the first.
            accelerator_config={"dispatch_batches": False},
            **settings,
        ),
        train_dataset=batches,
        data_collator=lambda rows: rows[0],
        optimizers=(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)),
    )


def oracle_steps(
    model: Any, batches: Batches, run: foveate.Run | None, *, over_items: bool
) -> dict[str, Tensor]:
    """What the masked oracle makes of the weights in as many steps of gradient descent.

    Args:
        over_items: the accumulated loss is a mean over labels; else over the batches' means, for
            models that do not take num_items_in_batch.
        run: tells what to drop, attached for that alone; None drops nothing.
    """
    for step in range(STEPS):
        part = batches.batches[ACCUMULATED * step : ACCUMULATED * (step + 1)]
        num_items = sum(int((batch["labels"] != -100).sum()) for batch in part)
        summed: dict[str, Tensor] = {}
        for batch in part:
            inputs = {key: value for key, value in batch.items() if key != "labels"}
            steps = []
            if run is not None:
                with run, torch.no_grad():
                    model(**batch)
                steps = steps_of(run)
            if over_items:
                loss = masked_loss(model, inputs, batch["labels"], steps, num_items=num_items)
            else:
                loss = masked_loss(model, inputs, batch["labels"], steps) / ACCUMULATED
            for name, gradient in gradients(model, loss).items():
                summed[name] = summed.get(name, 0) + gradient
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name in summed:
                    parameter -= LEARNING_RATE * summed[name]
    return dict(model.named_parameters())


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "gemma3"])
def test_two_accumulated_steps(tmp_path: Path, name: str, checkpointed: bool) -> None:
    model = trainable(name)
    twin, uncompressed = copy.deepcopy(model), copy.deepcopy(model)
    batches = Batches(model, name)
    trainer = trainer_for(model, batches, tmp_path, gradient_checkpointing=checkpointed)
    with foveate.attach(model, CARVE) as run:
        trainer.train()
    assert len(run.reports) == ACCUMULATED * STEPS
    assert all(report.fired and report.num_labels for report in run.reports)
    over_items = trainer.model_accepts_loss_kwargs
    expected = oracle_steps(twin, batches, foveate.Run(twin, CARVE), over_items=over_items)
    plain = oracle_steps(uncompressed, batches, None, over_items=over_items)
    gap = 0.0
    for key, parameter in model.named_parameters():
        assert_close(parameter, expected[key], 1e-6)
        gap = max(gap, float((parameter - plain[key]).abs().max()))
    assert gap > 1e-4, "compression makes no difference: the test would pass on anything"


def test_evaluation_predicts_at_the_labels_columns(tmp_path: Path) -> None:
    model = trainable("llava")
    batches = Batches(model, "llava")
    trainer = trainer_for(model, batches, tmp_path)
    with foveate.attach(model, CARVE):
        loss, logits, labels = trainer.prediction_step(
            model, dict(batches.batches[0]), prediction_loss_only=False
        )
    assert loss is not None
    logits = logits[0] if isinstance(logits, tuple) else logits  # the cache stands behind it
    assert logits.shape[:2] == labels.shape
    at, wanted = logits[:, :-1], labels[:, 1:]
    of_rows = torch.nn.functional.cross_entropy(at.flatten(0, 1), wanted.flatten())
    assert float(of_rows) == pytest.approx(float(loss), abs=1e-6)
