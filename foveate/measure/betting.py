"""Whether a mean lies below a limit, told by betting: valid however often, and whenever, one looks.

A gambler bets against "the mean is at least the limit". Were that true, no strategy would let the
wealth grow on average, and by Ville's inequality it would ever reach 1 / level with a probability
of at most `level`. So wealth is evidence, also when one stops because of it (Waudby-Smith and
Ramdas, "Estimating means of bounded random variables by betting", JRSS B 2024, arXiv:2010.09686,
section 4; drawing without replacement: section 5). Several bet sizes are played side by side, and
their mean wealth counts, which is a wealth again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from foveate.measure.quality import Interval

__all__ = ["bounds_of_mean", "evidence_above", "evidence_below", "least_draws", "proven_in_order"]

Numbers = Sequence[float] | npt.NDArray[np.float64]

# Shares of the largest bet that cannot ruin, and what is put on each. Where nothing is lost the
# largest wins soonest, so it gets most; small ones are for noisy numbers near the limit.
BETS = np.array([0.05, 0.1, 0.25, 0.5, 0.95])
STAKES = np.array([0.08, 0.12, 0.15, 0.2, 0.45])
TINY = 1e-12


def evidence_below(values: Numbers, limit: float, *, population: int | None = None) -> float:
    """Evidence that the mean lies below `limit`: the natural logarithm of the most wealth so far.

    Evidence of at least log(1 / level) proves it at that level, whenever it is reached; it never
    shrinks with more values.

    Args:
        values: in [-1, 1], [n], in the order they were drawn.
        limit: below 1.
        population: None for independent draws of one distribution, whose mean is meant. Else the
            values were drawn at random, without replacement, from so many, whose mean is meant.

    Returns:
        0 where there is none; infinity where what was not drawn can no longer lift the mean.

    Raises:
        ValueError: values beyond [-1, 1], or more of them than the population has.

    Example:
        >>> evidence_below([0.0] * 300, 0.03) > math.log(20)
        True
    """
    drawn = _checked(values, population)
    if not len(drawn):
        return 0.0
    if population is not None:
        left = population - np.arange(1, len(drawn) + 1)
        # What the rest must add up to, for the mean to be at the limit after all.
        if (population * limit - np.cumsum(drawn) > left + TINY * population).any():
            return math.inf
    return max(0.0, float(_log_wealth(drawn, limit, population).max()))


def evidence_above(values: Numbers, limit: float, *, population: int | None = None) -> float:
    """Evidence that the mean lies above `limit`, see `evidence_below`."""
    return evidence_below(-np.asarray(values, dtype=np.float64), -limit, population=population)


def bounds_of_mean(
    values: Numbers, *, confidence: float = 0.95, population: int | None = None
) -> Interval:
    """The mean so far and bounds of the mean meant, valid at all times together.

    A limit lies outside once the evidence against it suffices, half of the error at either end.

    Args:
        values, population: as for `evidence_below`.
        confidence: in (0, 1).

    Raises:
        ValueError: no values, or as `evidence_below`.
    """
    drawn = _checked(values, population)
    if not len(drawn):
        raise ValueError("no values, so no mean; give at least one.")
    needed = math.log(2 / (1 - confidence))
    mean = float(drawn.mean())
    high = _crossing(lambda limit: evidence_below(drawn, limit, population=population), needed)
    low = -_crossing(lambda limit: evidence_below(-drawn, limit, population=population), needed)
    return Interval(value=mean, low=min(low, mean), high=max(high, mean))


def least_draws(limit: float, *, level: float, population: int | None = None) -> int | None:
    """How many values prove a mean below `limit` if all of them are 0; None where none can.

    Args:
        limit: above 0.
        level: of error.
    """
    needed = math.log(1 / level)
    # The largest bet alone would get there.
    most = math.ceil((needed - math.log(STAKES[-1])) / math.log1p(BETS[-1] * limit / (1 - limit)))
    low, high = 1, most if population is None else min(most, population)
    if _evidence_of_zeros(high, limit, population) < needed:
        return None
    while low < high:
        middle = (low + high) // 2
        enough = _evidence_of_zeros(middle, limit, population) >= needed
        low, high = (low, middle) if enough else (middle + 1, high)
    return low


def proven_in_order(evidence: Sequence[float], *, level: float) -> int:
    """How many claims, from the first on, are proven at `level` together.

    Fixed-sequence testing (Maurer, Hothorn and Lehmacher 1995): in an order that was settled before
    the data, each claim gets the whole level as long as all before it are proven. A wrong claim is
    made only if the first wrong one in the order is proven, whose probability is at most `level`.

    Args:
        evidence: of each claim, as `evidence_below` gives it.
    """
    needed = math.log(1 / level)
    return next((n for n, each in enumerate(evidence) if each < needed), len(evidence))


def _evidence_of_zeros(count: int, limit: float, population: int | None) -> float:
    """`evidence_below` of so many; independent ones may be billions, and are not written out."""
    if population is not None:
        return evidence_below(np.zeros(count), limit, population=population)
    gains = np.log1p(BETS * limit / (1 - limit))
    return float(np.logaddexp.reduce(np.log(STAKES) + count * gains))


def _log_wealth(
    drawn: npt.NDArray[np.float64], limit: float, population: int | None
) -> npt.NDArray[np.float64]:
    """Logarithm of the wealth after each value, [n]."""
    count = len(drawn)
    if population is None:
        limits = np.full(count, limit)
    else:
        # Of what was left before each draw: its mean, were that of all at the limit.
        before = np.concatenate([[0.0], np.cumsum(drawn)[:-1]])
        limits = (population * limit - before) / (population - np.arange(count))
    # A value of 1 is the worst, and takes the share BETS of what there is.
    room = np.maximum(1 - limits, TINY)
    factors = 1 + BETS[:, None] * ((limits - drawn) / room)  # [bets, n]
    logs = np.log(STAKES)[:, None] + np.cumsum(np.log(factors), axis=1)
    return np.logaddexp.reduce(logs, axis=0)


def _crossing(evidence: Callable[[float], float], needed: float) -> float:
    """The lowest limit that the evidence lies below, to 1e-6; evidence grows with the limit."""
    low, high = -1.0, 1.0
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (low, middle) if evidence(middle) >= needed else (middle, high)
    return high


def _checked(values: Numbers, population: int | None) -> npt.NDArray[np.float64]:
    drawn = np.asarray(values, dtype=np.float64)
    if drawn.size and not np.abs(drawn).max() <= 1:
        raise ValueError(f"values reach {np.abs(drawn).max():g}; they have to lie in [-1, 1].")
    if population is not None and len(drawn) > population:
        raise ValueError(f"{len(drawn)} values of a population of {population}; draw each once.")
    return drawn
