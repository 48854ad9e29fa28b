"""Chunks of questions, answered by every arm from images that are encoded once."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from foveate.carve.answerer import Answerer
from foveate.carve.compare.comparison import BLIND, Arm
from foveate.carve.compare.savings import Savings
from foveate.carve.engine.image_cache import ImageCache
from foveate.core.report import Report
from foveate.models.anatomy import anatomy_of, visual_token_ids
from foveate.models.vlm import VisionLanguageModel
from foveate.tasks.question import Question

__all__ = ["Answering", "Chunk", "chunks_of"]

# Questions of a part: few enough to lose little when stopped, enough to keep files few.
CHUNK = 64


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Questions that are answered and kept together.

    Args:
        start: number of the first one in the whole data set.
        questions: of the chunk.
    """

    start: int
    questions: Sequence[Question] = field(repr=False)

    def name(self, arm: Arm) -> str:
        """File of an arm's answers: a folder for each arm."""
        clean = re.sub(r"[^\w.]+", "-", arm.key.replace("%", "pct"))
        # Two descriptions may differ in signs alone.
        mark = hashlib.sha256(arm.key.encode()).hexdigest()[:6]
        stop = self.start + len(self.questions)
        return f"{clean[:60]}-{mark}/{self.start:06d}-{stop:06d}"

    def digest(self) -> str:
        """Tells apart chunks of other questions, answers or pixels."""
        seen = hashlib.sha256()
        for question in self.questions:
            facts = (question.id, question.image_id, question.question, question.answers)
            seen.update(repr((*facts, question.image.size)).encode())
            seen.update(question.image.tobytes())
        return seen.hexdigest()[:16]


def chunks_of(questions: Sequence[Question], batch_size: int) -> list[Chunk]:
    """Cut questions where batches end, so that batches are those of one long run."""
    size = batch_size * max(1, CHUNK // batch_size)
    return [
        Chunk(start=start, questions=questions[start : start + size])
        for start in range(0, len(questions), size)
    ]


class Answering:
    """A model with all its arms.

    Args:
        vlm: the model.
        arms: that may be asked for.
        batch_size: questions at a time.
        max_new_tokens: longest answer.
        on_step: called after every batch of every arm.

    Attributes:
        answerers: by the arm's key.
    """

    def __init__(
        self,
        vlm: VisionLanguageModel,
        arms: Sequence[Arm],
        *,
        batch_size: int,
        max_new_tokens: int,
        on_step: Callable[[], None] = lambda: None,
    ) -> None:
        self.vlm = vlm
        self.batch_size = batch_size
        self.max_new_tokens = max_new_tokens
        self.on_step = on_step
        self._cache = ImageCache(vlm.model)
        self.answerers = {arm.key: Answerer(vlm, arm.method, images=self._cache) for arm in arms}
        anatomy = anatomy_of(vlm.model, with_explicit_mask=False)
        self._num_layers = len(anatomy.layers)
        self._visual_ids = tuple(visual_token_ids(anatomy).values())

    def answer(self, chunk: Chunk, arms: Sequence[Arm]) -> dict[str, dict[str, Any]]:
        """{arm's key: its answers, what it saved, seconds}, JSON-ready."""
        said: dict[str, list[Any]] = {arm.key: [] for arm in arms}
        seconds = dict.fromkeys(said, 0.0)
        reports: dict[str, list[Report]] = {arm.key: [] for arm in arms}
        text = visual = 0
        for offset in range(0, len(chunk.questions), self.batch_size):
            batch = chunk.questions[offset : offset + self.batch_size]
            inputs, blind = self._inputs(batch)
            self._cache.clear()
            seen = sum(int((inputs["input_ids"] == i).sum()) for i in self._visual_ids)
            visual += seen
            text += int(inputs["attention_mask"].sum()) - seen
            for arm in arms:
                started = time.perf_counter()
                # Random choices follow from the image's number in the data set, one image a
                # question, whichever process or run answers it.
                rows, own = self.ask(
                    arm, blind if arm.name == BLIND else inputs, first_image=chunk.start + offset
                )
                said[arm.key] += rows
                reports[arm.key] += own
                seconds[arm.key] += time.perf_counter() - started
                self.on_step()
        self._cache.clear()
        prompts = len(chunk.questions)
        return {
            arm.key: {
                "answers": said[arm.key],
                "savings": self._savings(arm, reports[arm.key], prompts, text, visual),
                "seconds": round(seconds[arm.key], 3),
            }
            for arm in arms
        }

    def ask(
        self, arm: Arm, inputs: dict[str, Any], *, first_image: int
    ) -> tuple[list[Any], Sequence[Report]]:
        """What an arm says to each question of a batch, JSON-ready, and the reports.

        Args:
            inputs: of the batch.
            first_image: number of its first image in the data set.
        """
        made = self.answerers[arm.key].answer(
            inputs, first_image=first_image, max_new_tokens=self.max_new_tokens
        )
        return [answer.text for answer in made.rows], made.reports

    def _inputs(self, batch: Sequence[Question]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Inputs with and without the images."""
        texts = [question.question for question in batch]
        shown = self.vlm.inputs(texts, [question.image for question in batch])
        return shown, self.vlm.inputs(texts)

    def _savings(
        self, arm: Arm, reports: Sequence[Report], prompts: int, text: int, visual: int
    ) -> dict[str, Any] | None:
        if arm.name == BLIND:
            return None
        if arm.method is None:
            return Savings.of_full(
                prompts=prompts, visual=visual, text=text, num_layers=self._num_layers
            ).to_dict()
        return Savings.of_reports(
            reports, prompts=prompts, text=text, num_layers=self._num_layers
        ).to_dict()
