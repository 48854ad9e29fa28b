"""Stage 1: the vision tower and projector learn to emit the oracle code of every patch."""

from __future__ import annotations

import json
import math
import random
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from foveate.tasks.reading_page import FONTS, make_page, paint
from training.vlm import checkpoint
from training.vlm.codes import FACTORS, code_of, code_table, factor_rows, patch_labels
from training.vlm.optim import Mixed
from training.vlm.shapes import shape_example
from training.vlm.vision import Projector, VisionTower, pixels_of

__all__ = ["Eye", "code_loss", "train_vision"]

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


def train_vision(
    folder: Path,
    *,
    minutes: float,
    batch: int = 12,
    muon_lr: float = 0.012,
    adam_lr: float = 0.0015,
    shape_share: float = 0.12,
    decay_minutes: float = 0.0,
) -> None:
    """Train until ``minutes`` have passed in this call; resume from ``folder`` exactly.

    The learning rate is constant, and falls linearly to a tenth over the last ``decay_minutes``.
    """
    torch.manual_seed(1)
    eye = Eye()
    optimiser = Mixed(eye, muon_lr=muon_lr, adam_lr=adam_lr)
    path = folder / "vision"
    state: dict[str, Any] = checkpoint.load(path, eye, optimiser) or {
        "step": 0,
        "stage": 0,
        "seconds": 0.0,
        "word": 0.0,
    }
    table = code_table()
    begun = saved = time.time()
    before = state["seconds"]
    running: dict[str, float] = state.setdefault("running", {})
    while (elapsed := (time.time() - begun) / 60) < minutes:
        pixels, labels = draw_batch(state["step"], batch, state["stage"], shape_share)
        loss, scores = code_loss(eye(pixels), labels, table)
        loss.backward()
        nn.utils.clip_grad_norm_(list(optimiser.others.values()), 2.0)
        warm = min(1.0, (state["step"] + 1) / 30)
        left = (minutes - elapsed) / decay_minutes if decay_minutes else 1.0
        optimiser.step(scale=warm * max(0.1, min(1.0, left)))
        scores["loss"] = loss.item()
        for name, value in scores.items():
            running[name] = 0.95 * running.get(name, value) + 0.05 * value
        state["step"] += 1
        state["seconds"] = before + time.time() - begun
        state["word"] = running.get("word", 0.0)
        if state["stage"] + 1 < len(_FONT_STAGES) and state["word"] > 0.7:
            state["stage"] += 1
            running["word"] = 0.0
        if state["step"] % 20 == 0:
            if not math.isfinite(running["loss"]):
                raise RuntimeError("the loss is not finite; resume with a lower muon_lr")
            with (folder / "vision.log").open("a") as log:
                shown = {k: round(v, 3) for k, v in running.items()}
                log.write(json.dumps({**state, "running": shown}) + "\n")
        if time.time() - saved > 120:
            checkpoint.save(path, eye, optimiser, state)
            saved = time.time()
    checkpoint.save(path, eye, optimiser, state)
