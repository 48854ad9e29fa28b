"""Time A against B in one process: interleaved rounds, ratios of medians, intervals."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from foveate.measure.quality import Interval, drawn_units, middle_95

Name = TypeVar("Name")


def wall_seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def interleaved(
    contenders: Mapping[Name, Callable[[], float]],
    *,
    rounds: int = 9,
    warmup: int = 1,
    on_round: Callable[[int], None] | None = None,
) -> dict[Name, list[float]]:
    """Run every contender once per round, in alternating order, so that drift hits all alike.

    Args:
        contenders: name -> a function that does the work and returns its seconds.
        rounds: measured rounds.
        warmup: rounds before them that are not counted.
        on_round: called with the number of rounds done, warm-up included.

    Returns:
        name -> seconds, one entry per round.

    Raises:
        ValueError: fewer than one round.
    """
    if rounds < 1:
        raise ValueError(f"rounds={rounds} is below 1; measure at least once.")
    seconds: dict[Name, list[float]] = {name: [] for name in contenders}
    order = list(contenders)
    for number in range(warmup + rounds):
        for name in order:
            elapsed = contenders[name]()
            if number >= warmup:
                seconds[name].append(elapsed)
        order.reverse()
        if on_round is not None:
            on_round(number + 1)
    return seconds


def ratio_of_medians(
    a: Sequence[float], b: Sequence[float], *, resamples: int = 2000, seed: int = 0
) -> Interval:
    """median(a) / median(b) of interleaved rounds, with a bootstrap that draws whole rounds.

    Raises:
        ValueError: a and b have different lengths, or none.
    """
    if not a or len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} rounds; both need the same number, at least 1.")
    first, second = np.asarray(a), np.asarray(b)
    draws = drawn_units(len(first), resamples=resamples, seed=seed)
    low, high = middle_95(np.median(first[draws], axis=1) / np.median(second[draws], axis=1))
    value = statistics.median(a) / statistics.median(b)
    return Interval(value=value, low=min(low, value), high=max(high, value))
