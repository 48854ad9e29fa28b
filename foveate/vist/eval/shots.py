"""Fewer demonstrations at equal entries: whole ones, chosen for each question, as raw text."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from foveate.vist.eval.context import FarContext, Subject
from foveate.vist.eval.looked_up import within_budget
from foveate.vist.fixation.lexical import Bm25

__all__ = ["SHOT_ARMS", "Shots"]

SHOT_ARMS = {
    "shots": "whole demonstrations drawn at random for each item, raw",
    "bm25": "the demonstrations nearest to the item by BM25, raw",
    "nearest": "the demonstrations nearest to the item by mean states halfway up the model, raw",
}


class Shots:
    """Demonstrations to choose from. Labels have no say in the choice.

    Args:
        far: all of them as one text.
        shown: each as it stands there, in order.
        asked: each without its label.
        subject: tells which texts are alike.
        seed: of random choices.
    """

    def __init__(
        self,
        far: FarContext,
        shown: Sequence[str],
        asked: Sequence[str],
        subject: Subject,
        seed: int,
    ) -> None:
        self.far, self._asked, self._subject, self._seed = far, list(asked), subject, seed
        places = np.cumsum([0, *(len(text) for text in shown)])
        assert places[-1] == len(far.source.text)
        # A token belongs to the demonstration that its last character is of.
        ends = np.append(far.source.starts[1:], len(far.source.text))
        borders = np.searchsorted(ends, places, side="right").tolist()
        self._bounds = list(itertools.pairwise(borders))

    def views(self, arm: str, share: float, questions: Sequence[str]) -> list[FarContext | None]:
        """What an arm hands over for each question, in the order of the text.

        Args:
            arm: of SHOT_ARMS.
            share: of the tokens.
            questions: written as `asked` is.
        """
        budget = round(share * len(self.far.ids))
        return [
            self.far.keep(within_budget(scores, self._bounds, budget))
            for scores in self._scores(arm, questions)
        ]

    def _scores(self, arm: str, questions: Sequence[str]) -> NDArray[np.float64]:
        """[Q, demonstrations], higher is better."""
        if arm == "shots":
            return np.random.default_rng(self._seed).random((len(questions), len(self._asked)))
        if arm == "bm25":
            bm25 = Bm25(self._asked)
            return np.stack([bm25.scores(question) for question in questions])
        rows = self._subject.states([*self._asked, *questions])
        assert rows is not None
        # What all share, template and domain, says nothing.
        rows = rows - rows[: len(self._asked)].mean(axis=0)
        rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
        return rows[len(self._asked) :] @ rows[: len(self._asked)].T
