"""The rivals without pictures: whole segments of the far text as raw text, within a budget."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from foveate.vist.eval.context import EncodedText, FarContext
from foveate.vist.fixation.lexical import Bm25
from foveate.vist.fixation.segments import segment_starts

__all__ = ["Lookup", "within_budget"]


class Lookup:
    """A far text in segments, for any number of questions.

    Args:
        far: the whole text.
    """

    def __init__(self, far: FarContext) -> None:
        self.far = far
        self.starts = segment_starts(far.source.text, _offsets(far.source))
        stops = [*self.starts[1:].tolist(), len(far.ids)]
        self._bounds = list(zip(self.starts.tolist(), stops, strict=True))
        chars = (*far.source.starts, len(far.source.text))
        self._bm25 = Bm25([far.source.text[chars[a] : chars[b]] for a, b in self._bounds])

    def by_words(self, question: str, budget: int) -> FarContext | None:
        """The segments that fit a question best by BM25, in the order of the text."""
        return self._kept(self._bm25.scores(question), budget)

    def by_chance(self, budget: int, generator: np.random.Generator) -> FarContext | None:
        """Segments drawn at random, in the order of the text."""
        return self._kept(generator.random(len(self._bounds)), budget)

    def _kept(self, scores: NDArray[np.float64], budget: int) -> FarContext | None:
        return self.far.keep(within_budget(scores, self._bounds, budget))


def within_budget(
    scores: NDArray[np.float64], bounds: Sequence[tuple[int, int]], budget: int
) -> list[int]:
    """Tokens of the best segments, each of which still fits what is left of the budget.

    Where not even the best one fits, as many of its first tokens as do.

    Args:
        scores: [S]; the first of equals comes first.
        bounds: first token of each segment and the one after its last.
        budget: tokens.
    """
    order = np.argsort(-scores, kind="stable").tolist()
    kept: list[int] = []
    for i in order:
        first, stop = bounds[i]
        if stop - first <= budget - len(kept):
            kept += range(first, stop)
    if not kept and order:
        first, stop = bounds[order[0]]
        kept += range(first, min(stop, first + budget))
    return sorted(kept)


def _offsets(source: EncodedText) -> NDArray[np.int64]:
    starts = np.asarray(source.starts, dtype=np.int64)
    return np.stack([starts, np.append(starts[1:], len(source.text))], axis=1)
