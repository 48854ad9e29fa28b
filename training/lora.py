"""Fine-tune the embedded model under compression: Trainer, PEFT's LoRA, a method attached.

`python -m training.lora --folder run/carved --minutes 60` trains a LoRA of decoder and projector on
the reading world's training pages while TokenCarve keeps 12.5 % of the visual tokens;
`--method none` is the control without a method. A folder holds `step-N` (safetensors, as PEFT
writes it; the last one), `log.jsonl` and, at the end, `run.json`. `python -m benchmarks.lora`
scores it. Needs `pip install -e '.[lora]'`.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import logging
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer, TrainerCallback, TrainingArguments

import foveate
from foveate.measure.manifest import manifest
from foveate.models.vlm import VisionLanguageModel
from foveate.tasks.question import Question
from foveate.tasks.reading import reading_questions

__all__ = ["ReadingQuestions", "adapted", "training_inputs"]

PER_PAGE = 4
# Questions look at the page in layers 3 and 4, so a cut before layer 2 leaves little to learn from.
# What is trained has to be what generates, hence the full early cache: docs/fine-tuning.md.
METHOD = "tokencarve(prune_layer=4,early_cache=full)"
# Decoder and projector; the tower stays as it is, so its pass costs no gradient.
LINEAR = r".*(language_model.*_proj|multi_modal_projector\.linear_\d)"
WARM_UP, FLOOR = 50, 0.02
IGNORED = -100


class ReadingQuestions(torch.utils.data.IterableDataset[Question]):
    """Questions of the training split without end: every page is drawn once, PER_PAGE of each."""

    def __iter__(self) -> Iterator[Question]:
        for page in itertools.count():
            yield from reading_questions(split="train", num_pages=1, per_page=PER_PAGE, start=page)


def training_inputs(vlm: VisionLanguageModel, questions: Sequence[Question]) -> dict[str, Any]:
    """Prompts with their answers behind them, and labels on the answers only.

    Args:
        vlm: whose processor pads prompts on the left; answers are padded on the right.
        questions: B of them; the first accepted answer is learnt.

    Returns:
        The model's inputs, `labels` [B, S] among them.
    """
    inputs = vlm.inputs([q.question for q in questions], [q.image for q in questions])
    tokenizer = vlm.tokenizer
    said = [
        [*tokenizer(q.answers[0], add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        for q in questions
    ]
    longest = max(len(ids) for ids in said)

    def column(fill: int) -> Tensor:
        return torch.tensor([[*ids, *[fill] * (longest - len(ids))] for ids in said])

    answers, labels = column(tokenizer.pad_token_id), column(IGNORED)
    prompt = inputs["input_ids"]
    is_real = (labels != IGNORED).to(inputs["attention_mask"].dtype)
    return {
        **inputs,
        "input_ids": torch.cat([prompt, answers], dim=1),
        "attention_mask": torch.cat([inputs["attention_mask"], is_real], dim=1),
        "labels": torch.cat([torch.full_like(prompt, IGNORED), labels], dim=1),
    }


def adapted(model: Any, *, rank: int) -> Any:
    """The model with a fresh LoRA on the linear maps of its decoder and projector."""
    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=LINEAR, bias="none")
    return get_peft_model(model, settings)


class Keeper(TrainerCallback):  # type: ignore[misc]
    """Saves the adapter now and then, logs, and stops when the time is over.

    Args:
        folder: for `step-N` and `log.jsonl`.
        minutes: of training.
        run: of the method; None without one.
    """

    def __init__(self, folder: Path, minutes: float, run: foveate.Run | None) -> None:
        self.folder, self.minutes, self.run = folder, minutes, run
        self.begun = self.saved = time.monotonic()

    @property
    def elapsed(self) -> float:
        """Minutes since the start."""
        return (time.monotonic() - self.begun) / 60

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.elapsed >= self.minutes:
            control.should_training_stop = True
        if time.monotonic() - self.saved > 180:
            self.save(kwargs["model"], state.global_step)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.save(kwargs["model"], state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        facts = {"step": state.global_step, "minutes": round(self.elapsed, 2), **(logs or {})}
        report = self.run.report if self.run is not None else None
        if report is not None:
            facts["row_share"] = report.row_share
        with (self.folder / "log.jsonl").open("a") as lines:
            lines.write(json.dumps(facts) + "\n")

    def save(self, model: Any, step: int) -> None:
        """Write `step-N` and drop the one before it."""
        self.saved = time.monotonic()
        place = self.folder / f"step-{step}"
        model.save_pretrained(place, safe_serialization=True)
        for old in self.folder.glob("step-*"):
            if old != place:
                shutil.rmtree(old)


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(prog="python -m training.lora", description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--method", default=METHOD, help="none: the control without one")
    parser.add_argument("--keep", default="12.5%")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--steps", type=int, default=0, help="as many, however long; 0: no limit")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=5e-4, help="at its peak")
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    if options.folder.exists() and any(options.folder.iterdir()):
        raise SystemExit(f"{options.folder} is not empty; give a new folder.")
    options.folder.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(level=logging.INFO)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)

    made_by = manifest(seed=0)  # of now: files may change while it trains
    minutes = float("inf") if options.steps else options.minutes
    steps = options.steps or 1_000_000
    vlm = foveate.load_vlm("embedded", device="cpu")
    model = adapted(vlm.model, rank=options.rank)
    run = None
    if options.method != "none":
        run = foveate.attach(model, options.method, keep=options.keep)
    keeper = Keeper(options.folder, minutes, run)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=options.lr, weight_decay=0.0)

    def scale(step: int) -> float:
        """Warm up, then fall in a straight line to FLOOR at the end."""
        done = max(step / steps, keeper.elapsed / minutes)
        return min((step + 1) / WARM_UP, max(FLOOR, 1 - done))

    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(options.folder),
            per_device_train_batch_size=options.batch,
            max_steps=steps,
            logging_steps=20,
            save_strategy="no",
            report_to=[],
            remove_unused_columns=False,
            use_cpu=True,
            disable_tqdm=True,
            dataloader_pin_memory=False,
        ),
        train_dataset=ReadingQuestions(),
        data_collator=lambda questions: training_inputs(vlm, questions),
        callbacks=[keeper],
        optimizers=(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, scale)),
    )
    with contextlib.nullcontext() if run is None else run:
        trainer.train()
        facts = {
            "method": options.method,
            "keep": options.keep if run is not None else None,
            "steps": trainer.state.global_step,
            "minutes": round(keeper.elapsed, 1),
            "batch": options.batch,
            "rank": options.rank,
            "lr": options.lr,
            "threads": options.threads,
            "row_share": run.report.row_share if run is not None and run.report else None,
            "manifest": made_by,
        }
    (options.folder / "run.json").write_text(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    main()
