"""Stage 1: the vision tower and projector learn to emit the oracle code of every patch."""

from __future__ import annotations

import random
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from foveate.tasks.reading_page import FONTS, make_page, paint
from training.run import Run
from training.vlm.codes import FACTORS, code_of, code_table, factor_rows, patch_labels
from training.vlm.shapes import shape_example
from training.vlm.vision import Projector, VisionTower, pixels_of

__all__ = ["CodeTrainee", "Eye", "code_loss", "train_vision"]

_SHARPNESS = 8.0
_FONT_STAGES = (FONTS[:1], FONTS[:2], FONTS)


class Eye(nn.Module):
    """Vision tower + projector: pixels [B, 3, 224, 224] -> visual tokens [B, 196, 192]."""

    def __init__(self) -> None:
        super().__init__()
        self.vision_tower = VisionTower()
        self.multi_modal_projector = Projector()

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.multi_modal_projector(self.vision_tower(pixels))


def code_loss(
    out: torch.Tensor,
    labels: torch.Tensor,
    table: torch.Tensor,
) -> tuple[torch.Tensor, dict[str, float]]:
    """Squared error to the code plus cross-entropy per factor; also accuracy per factor."""
    loss = 4.0 * F.mse_loss(out, code_of(labels, table), reduction="none").sum(-1).mean()
    scores = {}
    for idx, name in enumerate(FACTORS):
        chosen = labels[..., idx] >= 0
        if not chosen.any():
            continue
        target = labels[..., idx][chosen]
        logits = out[chosen] @ table[factor_rows(name)].T
        share = chosen.float().mean() ** 0.5
        loss = loss + share * F.cross_entropy(_SHARPNESS * logits, target)
        scores[name] = (logits.argmax(-1) == target).float().mean().item()
    return loss, scores


def draw_batch(
    index: int,
    size: int,
    stage: int,
    shape_share: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Training pixels and patch labels number ``index``; the same for the same arguments."""
    images, labels = [], []
    for slot in range(size):
        rng = random.Random(f"vision/{index}/{slot}")
        if rng.random() < shape_share:
            image, label = shape_example(rng)
        else:
            page = make_page(rng, fonts=_FONT_STAGES[stage])
            image, label = paint(page), patch_labels(page)
        images.append(image)
        labels.append(label)
    return pixels_of(images), torch.stack(labels)


class CodeTrainee(nn.Module):
    """What one step computes: pixels and patch labels -> loss and accuracy per factor."""

    def __init__(self, eye: Eye) -> None:
        super().__init__()
        self.eye, self.table = eye, code_table()

    def forward(
        self, pixels: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, float]]:
        return code_loss(self.eye(pixels), labels, self.table)


def train_vision(
    folder: Path,
    *,
    minutes: float,
    batch: int = 12,
    muon_lr: float = 0.012,
    adam_lr: float = 0.0015,
    shape_share: float = 0.12,
    decay_minutes: float = 0.0,
    max_steps: int = 0,
) -> None:
    """Train until ``minutes`` have passed in this call; resume from ``folder`` exactly.

    ``max_steps`` > 0 also stops at this total number of steps. The learning rate is constant, and
    falls linearly to a tenth over the last ``decay_minutes``.
    """
    torch.manual_seed(1)
    eye = Eye()
    run = Run(
        folder,
        "vision",
        CodeTrainee(eye),
        eye,
        muon_lr=muon_lr,
        adam_lr=adam_lr,
        clip=2.0,
        state={"stage": 0},
        minutes=minutes,
        max_steps=max_steps,
    )
    while run.goes_on():
        stage = run.state["stage"]
        loss, scores = run.model(*draw_batch(run.draw, batch, stage, shape_share))
        run.learn(loss, run.scale(30, decay_minutes, floor=0.1))
        for name, value in {**scores, "loss": loss.item()}.items():
            run.note(name, value)
        if stage + 1 < len(_FONT_STAGES) and run.mean(run.running.get("word", 0.0)) > 0.7:
            run.state["stage"] += 1
            run.running["word"] = 0.0
        if run.step % 20 == 0:
            run.log()
        run.keep()
    run.close()
