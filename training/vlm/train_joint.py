"""Stage 3 and 4: the joined model on pictures; first with blind early layers, then without.

At first questions cannot see the image in layers 0-2, so that the answer is fetched deeper. Then,
with ``open_steps``, those layers are opened step by step, and the rest of the training is that of
an ordinary LLaVA. No pruning happens in training, and no loss favours any compression method.
"""

from __future__ import annotations

import json
import math
import random
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from foveate.tasks.reading import questions_about
from foveate.tasks.reading_page import make_page, paint
from training.vlm import checkpoint
from training.vlm.codes import code_table, patch_labels
from training.vlm.joint import Averaged
from training.vlm.optim import Mixed
from training.vlm.packing import answer_loss, pack
from training.vlm.processes import Processes
from training.vlm.shapes import draw_number, draw_shape_questions, num_images, shape_example
from training.vlm.start import SCALE
from training.vlm.train_language import BLIND_LAYERS
from training.vlm.train_vision import code_loss
from training.vlm.vision import pixels_of

__all__ = ["train_joint"]

_CLOSED = -10.0  # attention logit that still hides 196 visual tokens


def _draw(
    index: int,
    size: int,
    count: int,
    shape_share: float,
) -> tuple[list, list, list, list]:  # type: ignore[type-arg]
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
    rank: int = 0,
    world: int = 1,
) -> None:
    """Train until ``minutes`` have passed in this call; resume from ``folder`` exactly.

    ``max_steps`` > 0 also stops at this total number of steps.

    Starts from ``folder``'s vision and language checkpoints. ``world`` processes, started by hand
    with ranks 0.. and the same arguments, share every step (``batch`` pictures each).
    ``open_steps`` > 0 opens the blind layers from now on, over this many steps; 1 at once.
    """
    pair = Averaged()
    model = pair.current
    optimiser = Mixed(model, muon_lr=muon_lr, adam_lr=adam_lr, factors={"eye.": eye_factor})
    path = folder / "joint"
    state: dict[str, Any] | None = checkpoint.load(path, pair, optimiser)
    if state is None:
        model.join(
            checkpoint.load_weights(folder / "vision"), checkpoint.load_weights(folder / "language")
        )
        pair.average.load_state_dict(model.state_dict())
        state = {"step": 0, "cpu_seconds": 0.0}
    state.setdefault("opened", 0)
    group = Processes(folder, rank, world)
    table = code_table()
    running: dict[str, float] = state.setdefault("running", {})
    begun = saved = time.time()
    used = time.process_time()
    before = state["cpu_seconds"]
    num_images()
    while (elapsed := group.mean((time.time() - begun) / 60)) < minutes:
        step = state["step"]
        if max_steps and step >= max_steps:
            break
        images, labels, asked, kinds = _draw(step * world + rank, batch, questions, shape_share)
        ids, targets = pack(asked)
        bias = float("-inf")
        if open_steps:
            state["opened"] += 1
            bias = _CLOSED * max(0.0, 1 - state["opened"] / open_steps)
        hidden, visual = model(pixels_of(images), ids, blind_layers=BLIND_LAYERS, bias=bias)
        loss, right = answer_loss(hidden, model.language.lm_head, targets)
        whole = loss
        if code_weight:
            extra, seen = code_loss(visual / SCALE, torch.stack(labels), table)
            whole = loss + code_weight * extra
        whole.backward()
        group.share_gradients(model)
        nn.utils.clip_grad_norm_(list(optimiser.others.values()), 1.0)
        left = (minutes - elapsed) / decay_minutes if decay_minutes else 1.0
        optimiser.step(scale=min(1.0, (step + 1) / 20) * max(0.05, min(1.0, left)))
        pair.update(max(average, 1 / (step + 2)))
        for b, page in enumerate(kinds):
            for q, kind in enumerate(page):
                value = float(right[b, q])
                whole_task = "shapes" if kind == "easy_vqa" else "all"
                for name, rate in ((kind, 0.02), (whole_task, 0.002)):
                    running[name] = running.get(name, value) * (1 - rate) + rate * value
        for name, value in (("loss", loss.item()), ("word", seen["word"] if code_weight else 0.0)):
            running[name] = 0.95 * running.get(name, value) + 0.05 * value
        state["step"] = step + 1
        state["cpu_seconds"] = before + (time.process_time() - used) * world
        if rank == 0 and state["step"] % 10 == 0:
            if not math.isfinite(running["loss"]):
                raise RuntimeError("the loss is not finite; resume with a lower muon_lr")
            with (folder / "joint.log").open("a") as log:
                shown = {k: round(v, 3) for k, v in sorted(running.items())}
                log.write(json.dumps({**state, "running": shown}) + "\n")
        if rank == 0 and time.time() - saved > 180:
            checkpoint.save(path, pair, optimiser, state)
            saved = time.time()
    if rank == 0:
        checkpoint.save(path, pair, optimiser, state)
    group.close()
