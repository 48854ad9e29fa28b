"""Which segments to look at: the join of several scores, and a choice within a budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["added_up", "choose_segments", "join_scores", "thin_out", "weighted"]

Scores = NDArray[np.float64]

# BM25 is an estimate of log-odds, and what the index says is in nats too: they add up as they are.
# On the even articles of XQuAD more weight for the index's words finds more in other words (+3 to 4
# points of recall at 5 %), but brings neighbours of a key beside it, which answers suffer from.
# Attention is another kind of number: a share of the best segment's evidence, found there too.
EVIDENCE = {"words": 1.0, "index-words": 1.0, "index-pictures": 1.0, "index-states": 1.0}
ATTENTION = 0.25
WEIGHTS = {**EVIDENCE, "attention": ATTENTION}


def weighted(parts: Mapping[str, Scores]) -> dict[str, Scores]:
    """What each part adds to the joined score: name -> [S].

    Evidence is added up and divided by the best segment's sum, so that this has 1; attention by its
    own largest value. What says nothing (all zeros) adds nothing.

    Args:
        parts: name (see WEIGHTS) -> [S], at least 0, higher = better.
    """
    told = {name: EVIDENCE[name] * parts[name] for name in parts if name in EVIDENCE}
    best = np.sum(list(told.values()), axis=0).max(initial=0.0) if told else 0.0
    made = {name: scores / max(best, 1e-12) for name, scores in told.items()}
    if "attention" in parts:
        seen = parts["attention"]
        made["attention"] = ATTENTION * seen / max(seen.max(initial=0.0), 1e-12)
    return made


def join_scores(parts: Mapping[str, Scores]) -> Scores:
    """One score of every segment, [S]: the sum of the weighted parts."""
    return added_up(weighted(parts))


def added_up(shown: Mapping[str, Scores]) -> Scores:
    """The sum of parts that `weighted` made, [S]."""
    return np.sum(list(shown.values()), axis=0)


def choose_segments(
    scores: Scores, lengths: Sequence[int], budget: int, floor: float = 0.0
) -> list[int]:
    """The best segments that fit a budget of tokens together, best first.

    One that does not fit what is left is passed over; ties go to the earlier one. Segments that
    score nothing are never chosen.

    Args:
        scores: [S].
        lengths: [S] tokens of each.
        budget: tokens.
        floor: share of the best score among those that fit at all which a segment must have.
    """
    chosen, left = [], budget
    fits = [score for score, size in zip(scores, lengths, strict=True) if size <= budget]
    least = floor * max(fits, default=0.0)
    for place in np.argsort(-scores, kind="stable").tolist():
        if scores[place] > 0 and scores[place] >= least and 0 < lengths[place] <= left:
            chosen.append(place)
            left -= lengths[place]
    return chosen


def thin_out(count: int, budget: int) -> NDArray[np.int64]:
    """Which of `count` entries stay where `budget` may: evenly spread, all if they fit. [min]"""
    kept = max(0, min(count, budget))
    return (np.arange(kept) * count + count // 2) // max(1, kept)
