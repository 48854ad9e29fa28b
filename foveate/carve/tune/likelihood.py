"""How likely the full model's own answers are under each setting: a loss that needs no labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from foveate.carve.compare.answering import Answering
from foveate.carve.compare.comparison import Arm
from foveate.core.report import Report
from foveate.models.generation import AnswerToken

__all__ = ["Likelihoods"]


class Likelihoods(Answering):
    """Answering whose full arm writes an answer, and whose others say how likely that is.

    An entry of the full arm has the answer's "ids" and their "probability" (geometric mean of its
    tokens' probabilities); one of any other arm has the "probability" of the same ids.

    Attributes:
        ids: of the full model's answers, by the number of the question.
    """

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.ids: dict[int, Sequence[int]] = {}

    def recall(self, start: int, entries: Sequence[dict[str, Any]]) -> None:
        """Take the full model's answers from what was kept of it, from question `start` on."""
        self.ids |= {start + number: entry["ids"] for number, entry in enumerate(entries)}

    def ask(
        self, arm: Arm, inputs: dict[str, Any], *, first_image: int
    ) -> tuple[list[Any], Sequence[Report]]:
        answerer = self.answerers[arm.key]
        if arm.method is None:
            written = answerer.answer(
                inputs, probabilities=True, max_new_tokens=self.max_new_tokens
            )
            entries = [
                {"ids": list(answer.ids), "probability": _mean(answer.tokens)}
                for answer in written.rows
            ]
            self.recall(first_image, entries)
            return entries, written.reports
        count = len(inputs["input_ids"])
        wanted = [self.ids[first_image + row] for row in range(count)]
        scored = answerer.score(inputs, wanted, first_image=first_image)
        return [{"probability": math.exp(-row.loss)} for row in scored.rows], scored.reports


def _mean(tokens: Sequence[AnswerToken]) -> float:
    """Geometric, of their probabilities."""
    return math.exp(fmean(math.log(max(token.probability, 1e-300)) for token in tokens))
