"""Dense and sparse pages of the reading world, and what a model under a method says about them."""

from __future__ import annotations

import random
from dataclasses import dataclass

from rich.progress import Progress

from foveate.carve.answerer import Answerer
from foveate.carve.engine.image_cache import ImageCache
from foveate.carve.method import Method
from foveate.measure.quality import exact_match
from foveate.models.vlm import VisionLanguageModel
from foveate.tasks.question import Question
from foveate.tasks.reading import SEEDS, page_at, questions_about
from foveate.tasks.reading_page import PITCH, SIZE, Page, make_page, paint

BATCH = 50


@dataclass(frozen=True)
class Asked:
    """Questions on pages, odd ones sparse: 1 to 8 cells with ink, where others have up to 28.

    Args:
        questions: two of a page, or one.
        pages: number of the page of each question.
        inked: of each page, tokens that show some of its ink.
    """

    questions: list[Question]
    pages: list[int]
    inked: list[int]

    @classmethod
    def of(cls, split: str, num_pages: int) -> Asked:
        questions, pages, inked = [], [], []
        for index in range(num_pages):
            rng = random.Random(f"keep-information/{split}/{index}")
            is_sparse = index % 2 == 1
            page = (
                make_page(rng, max_items=rng.randint(1, 8))
                if is_sparse
                else page_at(SEEDS[split], index)
            )
            image = paint(page)
            inked.append(len(_inked(page)))
            for asked in questions_about(page, rng, 2):
                name = f"{split}-{index}"
                questions.append(
                    Question(
                        image=image,
                        question=asked.text,
                        answers=(asked.answer,),
                        kind=asked.kind,
                        image_id=name,
                        id=f"{name}-{len(questions)}",
                    )
                )
                pages.append(index)
        return cls(questions, pages, inked)

    @property
    def images(self) -> list[str]:
        return [question.image_id for question in self.questions]

    def answer(
        self, vlm: VisionLanguageModel, methods: dict[str, Method | None], progress: Progress
    ) -> dict[str, tuple[list[bool], list[int]]]:
        """{name: (right or wrong, visual tokens that went on) of each question}."""
        cache = ImageCache(vlm.model)
        arms = {name: Answerer(vlm, method, images=cache) for name, method in methods.items()}
        right: dict[str, list[bool]] = {name: [] for name in arms}
        kept: dict[str, list[int]] = {name: [] for name in arms}
        task = progress.add_task(
            "asking", total=-(-len(self.questions) // BATCH) * max(1, len(arms))
        )
        for start in range(0, len(self.questions), BATCH):
            batch = self.questions[start : start + BATCH]
            inputs = vlm.inputs([q.question for q in batch], [q.image for q in batch])
            cache.clear()
            for name, arm in arms.items():
                said = arm.answer(inputs, first_image=start, max_new_tokens=8)
                right[name] += [
                    exact_match(a.text, q.answers) for a, q in zip(said.rows, batch, strict=True)
                ]
                kept[name] += [i.kept for report in said.reports for i in report.images]
                progress.advance(task)
        return {name: (right[name], kept[name]) for name in arms}


def _inked(page: Page) -> set[tuple[int, int]]:
    """(row, column) of the tokens on which something is painted."""
    found = set()
    for ink in page.ink:
        x0, y0, x1, y1 = (min(max(0, v), SIZE - 1) // PITCH for v in (*ink.box[:2], *ink.box[2:]))
        found |= {(y, x) for y in range(y0, y1 + 1) for x in range(x0, x1 + 1)}
    return found
