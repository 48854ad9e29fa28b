"""Stage 2: the language model learns to answer from oracle codes, on growing pages."""

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
from foveate.tasks.reading_page import LINES, make_page
from training.vlm import checkpoint
from training.vlm.codes import GRID, code_of, code_table, patch_labels
from training.vlm.language import LanguageModel
from training.vlm.optim import Mixed
from training.vlm.packing import answer_loss, pack
from training.vlm.processes import Processes
from training.vlm.shapes import draw_number, num_images, shape_example, shape_questions
from training.vlm.start import SCALE, structured_start

__all__ = ["BLIND_LAYERS", "train_language"]

BLIND_LAYERS = 3


def _page_batch(index: int, size: int, lines: int, count: int) -> tuple[list, list, list]:  # type: ignore[type-arg]
    labels, asked, kinds = [], [], []
    for slot in range(size):
        rng = random.Random(f"language/{index}/{slot}")
        page = make_page(rng, num_lines=lines)
        questions = questions_about(page, rng, count)
        rows = slice(page.first_line * GRID, (page.first_line + lines) * GRID)
        labels.append(patch_labels(page)[rows])
        asked.append([(q.text, q.answer) for q in questions])
        kinds.append([q.kind for q in questions])
    return labels, asked, kinds


def _shape_batch(index: int, size: int, count: int) -> tuple[list, list, list]:  # type: ignore[type-arg]
    labels, asked, kinds = [], [], []
    for slot in range(size):
        rng = random.Random(f"language/shape/{index}/{slot}")
        number = draw_number(rng)
        labels.append(shape_example(rng, number)[1])
        pairs = shape_questions(number)
        asked.append(rng.sample(pairs, min(count, len(pairs))))
        kinds.append(["easy_vqa"] * len(asked[-1]))
    return labels, asked, kinds


def train_language(
    folder: Path,
    *,
    minutes: float,
    batch: int = 8,
    questions: int = 20,
    muon_lr: float = 0.004,
    adam_lr: float = 0.0005,
    noise: float = 0.03,
    shape_share: float = 0.08,
    lines: int = 3,
    promote: float = 0.75,
    decay_minutes: float = 0.0,
    max_steps: int = 0,
    rank: int = 0,
    world: int = 1,
) -> None:
    """Train until ``minutes`` have passed in this call; resume from ``folder`` exactly.

    ``max_steps`` > 0 also stops at this total number of steps.

    Pages start with ``lines`` lines; two more whenever exact match exceeds ``promote``.
    ``world`` processes, started by hand with ranks 0.. and the same arguments, share every step.
    """
    torch.manual_seed(2)
    model = LanguageModel()
    structured_start(model)
    optimiser = Mixed(model, muon_lr=muon_lr, adam_lr=adam_lr, factors={"lm_head": 4.0})
    path = folder / "language"
    state: dict[str, Any] = checkpoint.load(path, model, optimiser) or {
        "step": 0,
        "lines": lines,
        "since": 0,
        "seconds": 0.0,
    }
    table = code_table()
    begun = saved = time.time()
    before = state["seconds"]
    running: dict[str, float] = state.setdefault("running", {})
    state.setdefault("since", 0)
    num_images()
    group = Processes(folder, rank, world)
    while (elapsed := group.mean((time.time() - begun) / 60)) < minutes:
        step = state["step"]
        if max_steps and step >= max_steps:
            break
        if random.Random(f"language/mix/{step}").random() < shape_share:
            labels, asked, kinds = _shape_batch(step * world + rank, batch, 10)
        else:
            labels, asked, kinds = _page_batch(
                step * world + rank, batch, state["lines"], questions
            )
        codes = code_of(torch.stack(labels), table)
        generator = torch.Generator().manual_seed(step * world + rank)
        codes = SCALE * (codes + noise * torch.randn(codes.shape, generator=generator))
        ids, targets = pack(asked)
        hidden = model(codes, ids, blind_layers=BLIND_LAYERS)
        loss, right = answer_loss(hidden, model.lm_head, targets)
        loss.backward()
        group.share_gradients(model)
        nn.utils.clip_grad_norm_(list(optimiser.others.values()), 1.0)
        left = (minutes - elapsed) / decay_minutes if decay_minutes else 1.0
        optimiser.step(scale=min(1.0, (step + 1) / 20) * max(0.05, min(1.0, left)))
        for b, page in enumerate(kinds):
            for q, kind in enumerate(page):
                value = float(right[b, q])
                running[kind] = 0.98 * running.get(kind, value) + 0.02 * value
                if kind != "easy_vqa":
                    running["all"] = 0.998 * running.get("all", value) + 0.002 * value
        running["loss"] = 0.95 * running.get("loss", loss.item()) + 0.05 * loss.item()
        state["step"], state["since"] = step + 1, state["since"] + 1
        state["seconds"] = before + time.time() - begun
        ready = state["lines"] < LINES and state["since"] >= 25
        if ready and group.mean(running.get("all", 0.0)) > promote:
            state["lines"], state["since"] = min(LINES, state["lines"] + 2), 0
        if rank == 0 and state["step"] % 20 == 0:
            if not math.isfinite(running["loss"]):
                raise RuntimeError("the loss is not finite; resume with a lower muon_lr")
            with (folder / "language.log").open("a") as log:
                shown = {k: round(v, 3) for k, v in sorted(running.items())}
                log.write(json.dumps({**state, "running": shown}) + "\n")
        if rank == 0 and time.time() - saved > 120:
            checkpoint.save(path, model, optimiser, state)
            saved = time.time()
    if rank == 0:
        checkpoint.save(path, model, optimiser, state)
    group.close()
