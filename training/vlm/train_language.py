"""Stage 2: the language model learns to answer from oracle codes, on growing pages."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from torch import nn

from foveate.tasks.reading import questions_about
from foveate.tasks.reading_page import LINES, make_page
from training.run import Run
from training.vlm.codes import GRID, code_of, code_table, patch_labels
from training.vlm.language import LanguageModel
from training.vlm.packing import answer_loss, pack
from training.vlm.shapes import draw_number, num_images, shape_example, shape_questions
from training.vlm.start import SCALE, structured_start

__all__ = ["BLIND_LAYERS", "AnswerTrainee", "train_language"]

BLIND_LAYERS = 3
_Batch = tuple[list[Any], list[Any], list[Any]]  # labels, questions with answers, kinds


def _page_batch(index: int, size: int, lines: int, count: int) -> _Batch:
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


def _shape_batch(index: int, size: int, count: int) -> _Batch:
    labels, asked, kinds = [], [], []
    for slot in range(size):
        rng = random.Random(f"language/shape/{index}/{slot}")
        number = draw_number(rng)
        labels.append(shape_example(rng, number)[1])
        pairs = shape_questions(number)
        asked.append(rng.sample(pairs, min(count, len(pairs))))
        kinds.append(["easy_vqa"] * len(asked[-1]))
    return labels, asked, kinds


class AnswerTrainee(nn.Module):
    """What one step computes: codes and packed questions -> loss and exact match per question."""

    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, codes: torch.Tensor, ids: torch.Tensor, targets: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = self.model(codes, ids, blind_layers=BLIND_LAYERS)
        return answer_loss(hidden, self.model.lm_head, targets)


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
) -> None:
    """Train until ``minutes`` have passed in this call; resume from ``folder`` exactly.

    ``max_steps`` > 0 also stops at this total number of steps. Pages start with ``lines`` lines;
    two more whenever exact match exceeds ``promote``.
    """
    torch.manual_seed(2)
    model = LanguageModel()
    structured_start(model)
    num_images()  # read the data before the clock starts
    run = Run(
        folder,
        "language",
        AnswerTrainee(model),
        model,
        muon_lr=muon_lr,
        adam_lr=adam_lr,
        factors={"model.lm_head": 4.0},
        state={"lines": lines, "since": 0},
        minutes=minutes,
        max_steps=max_steps,
    )
    table, state = code_table(), run.state
    while run.goes_on():
        if random.Random(f"language/mix/{run.step}").random() < shape_share:
            labels, asked, kinds = _shape_batch(run.draw, batch, 10)
        else:
            labels, asked, kinds = _page_batch(run.draw, batch, state["lines"], questions)
        codes = code_of(torch.stack(labels), table)
        generator = torch.Generator().manual_seed(run.draw)
        codes = SCALE * (codes + noise * torch.randn(codes.shape, generator=generator))
        loss, right = run.model(codes, *pack(asked))
        run.learn(loss, run.scale(20, decay_minutes, floor=0.05))
        for b, page in enumerate(kinds):
            for q, kind in enumerate(page):
                run.note(kind, float(right[b, q]), rate=0.02)
                if kind != "easy_vqa":
                    run.note("all", float(right[b, q]), rate=0.002)
        run.note("loss", loss.item())
        state["since"] += 1
        ready = state["lines"] < LINES and state["since"] >= 25
        if ready and run.mean(run.running.get("all", 0.0)) > promote:
            state["lines"], state["since"] = min(LINES, state["lines"] + 2), 0
        if run.step % 20 == 0:
            run.log()
        run.keep()
    run.close()
