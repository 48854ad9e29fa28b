"""Stage 3 and 4: the joined model on pictures; first with blind early layers, then without.

At first questions cannot see the image in layers 0-2, so that the answer is fetched deeper. Then,
with ``open_steps``, those layers are opened step by step, and the rest of the training is that of
an ordinary LLaVA. No pruning happens in training, and no loss favours any compression method.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from torch import nn

from foveate.tasks.reading import questions_about
from foveate.tasks.reading_page import make_page, paint
from training.run import Run, trained_weights
from training.vlm.codes import code_table, patch_labels
from training.vlm.joint import Averaged, JointModel
from training.vlm.packing import answer_loss, pack
from training.vlm.shapes import draw_number, draw_shape_questions, num_images, shape_example
from training.vlm.start import SCALE
from training.vlm.train_language import BLIND_LAYERS
from training.vlm.train_vision import code_loss
from training.vlm.vision import pixels_of

__all__ = ["JointTrainee", "train_joint"]

_CLOSED = -10.0  # attention logit that still hides 196 visual tokens


def _draw(
    index: int,
    size: int,
    count: int,
    shape_share: float,
) -> tuple[list[Any], list[Any], list[Any], list[Any]]:
    images, labels, asked, kinds = [], [], [], []
    for slot in range(size):
        rng = random.Random(f"joint/{index}/{slot}")
        if rng.random() < shape_share:
            number = draw_number(rng)
            image, label = shape_example(rng, number)
            pairs = draw_shape_questions(rng, number, 6)
            kind = ["easy_vqa"] * len(pairs)
        else:
            page = make_page(rng)
            image, label = paint(page), patch_labels(page)
            questions = questions_about(page, rng, count)
            pairs, kind = [(q.text, q.answer) for q in questions], [q.kind for q in questions]
        images.append(image)
        labels.append(label)
        asked.append(pairs)
        kinds.append(kind)
    return images, labels, asked, kinds


class JointTrainee(nn.Module):
    """What one step computes: pixels, packed questions and patch labels -> losses.

    Returns:
        the loss, exact match per question [B, Q], and the accuracy of the words' codes.
    """

    def __init__(self, model: JointModel, code_weight: float) -> None:
        super().__init__()
        self.model, self.code_weight, self.table = model, code_weight, code_table()

    def forward(
        self,
        pixels: torch.Tensor,
        ids: torch.Tensor,
        targets: torch.Tensor,
        labels: torch.Tensor,
        bias: float,
    ) -> tuple[torch.Tensor, torch.Tensor, dict[str, float]]:
        hidden, visual = self.model(pixels, ids, blind_layers=BLIND_LAYERS, bias=bias)
        loss, right = answer_loss(hidden, self.model.language.lm_head, targets)
        seen = {"loss": loss.item(), "word": 0.0}
        if self.code_weight:
            extra, accuracy = code_loss(visual / SCALE, labels, self.table)
            loss = loss + self.code_weight * extra
            seen["word"] = accuracy["word"]
        return loss, right, seen


def train_joint(
    folder: Path,
    *,
    minutes: float,
    batch: int = 8,
    questions: int = 20,
    muon_lr: float = 0.003,
    adam_lr: float = 0.0005,
    code_weight: float = 0.1,
    shape_share: float = 0.12,
    eye_factor: float = 0.3,
    open_steps: int = 0,
    decay_minutes: float = 0.0,
    average: float = 0.01,
    max_steps: int = 0,
) -> None:
    """Train until ``minutes`` have passed in this call; resume from ``folder`` exactly.

    ``max_steps`` > 0 also stops at this total number of steps. Starts from ``folder``'s vision and
    language checkpoints; each process draws ``batch`` pictures a step. ``open_steps`` > 0 opens the
    blind layers from now on, over this many steps; 1 at once.
    """
    num_images()  # read the data before the clock starts
    pair = Averaged()
    model = pair.current
    run = Run(
        folder,
        "joint",
        JointTrainee(model, code_weight),
        pair,
        muon_lr=muon_lr,
        adam_lr=adam_lr,
        factors={"model.eye": eye_factor},
        state={"opened": 0},
        minutes=minutes,
        max_steps=max_steps,
        save_every=180.0,
    )
    if run.is_fresh:
        model.join(trained_weights(folder, "vision"), trained_weights(folder, "language"))
        pair.average.load_state_dict(model.state_dict())
    while run.goes_on():
        images, labels, asked, kinds = _draw(run.draw, batch, questions, shape_share)
        bias = float("-inf")
        if open_steps:
            run.state["opened"] += 1
            bias = _CLOSED * max(0.0, 1 - run.state["opened"] / open_steps)
        loss, right, seen = run.model(
            pixels_of(images), *pack(asked), torch.stack(labels), bias=bias
        )
        run.learn(loss, run.scale(20, decay_minutes, floor=0.05))
        pair.update(max(average, 1 / (run.step + 1)))
        for b, page in enumerate(kinds):
            for q, kind in enumerate(page):
                run.note(kind, float(right[b, q]), rate=0.02)
                run.note("shapes" if kind == "easy_vqa" else "all", float(right[b, q]), rate=0.002)
        for name, value in seen.items():
            run.note(name, value)
        if run.step % 10 == 0:
            run.log()
        run.keep()
    run.close()
