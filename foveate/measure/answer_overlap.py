"""Whether a free answer holds what was asked for: containment, and the overlap of words (F1)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from foveate.measure.quality import normalise

__all__ = ["answer_f1", "contains_answer"]


def contains_answer(prediction: str, answers: Sequence[str]) -> bool:
    """Whether an accepted answer's words stand in the prediction, one after the other.

    Both are normalised (`foveate.measure.quality.normalise`); "5" is not in "15".
    """
    said = f" {normalise(prediction)} "
    wanted = [normalise(answer) for answer in answers]
    return any(f" {answer} " in said for answer in wanted if answer)


def answer_f1(prediction: str, answers: Sequence[str]) -> float:
    """F1 of the normalised words, as in SQuAD's scorer; the best accepted answer counts."""
    said = Counter(normalise(prediction).split())
    best = 0.0
    for answer in answers:
        wanted = Counter(normalise(answer).split())
        shared = (said & wanted).total()
        if shared:
            best = max(best, 2 * shared / (said.total() + wanted.total()))
    return best
