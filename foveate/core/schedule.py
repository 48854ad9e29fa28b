"""Budgets over several steps: token counts whose mean over the layers is the budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from foveate.errors import BudgetError


def spans_of(layers: Sequence[int], num_layers: int) -> tuple[int, ...]:
    """How many decoder layers run on what each step leaves.

    >>> spans_of((2, 4, 6), 8)
    (2, 2, 2)
    """
    ends = (*layers[1:], num_layers)
    return tuple(end - start for start, end in zip(layers, ends, strict=True))


def geometric_counts(
    total: int, num_tokens: int, spans: Sequence[int], enough: float = 1.0
) -> tuple[int, ...]:
    """Counts N q, N q^2, ... after each step, with q such that they spend `total` token-layers.

    No count is above enough * N while a later one is below it. The last count takes up the
    rounding, so that the total is never exceeded, and is reached to within one token in the layers
    of the last step.

    Args:
        total: tokens summed over layers.
        num_tokens: N, before the first step.
        spans: layers that run on each count.
        enough: share of N in (0, 1]; 1 leaves the series alone.

    >>> geometric_counts(28, 16, (2, 2))
    (9, 5)
    >>> geometric_counts(28, 16, (2, 2), enough=0.5)
    (8, 6)
    >>> geometric_counts(40, 16, (2, 2), enough=0.5)
    (10, 10)
    """

    def wanted(at: float) -> list[float]:
        """Rises with `at`: the capped series up to 1, then all counts together up to 2."""
        if at > 1:
            return [num_tokens * (enough + (at - 1) * (1 - enough))] * len(spans)
        return [num_tokens * min(at ** (i + 1), enough) for i in range(len(spans))]

    at = _largest(lambda value: _weight(wanted(value), spans) <= total, 2.0)
    return fitted_counts(wanted(at), total, num_tokens, spans)


def tapered_counts(
    total: int, num_tokens: int, spans: Sequence[int], taper: float
) -> tuple[int, ...]:
    """Counts of which each is `taper` times the one before, spending `total` token-layers.

    Where that would keep more than all tokens at first, all stay and the later counts take what is
    left of the total.

    Args:
        total: tokens summed over layers.
        num_tokens: N, before the first step.
        spans: layers that run on each count.
        taper: in (0, 1].

    Raises:
        BudgetError: not even one token in every layer fits.

    >>> tapered_counts(62, 16, (5, 3), 0.4)
    (10, 4)
    >>> tapered_counts(110, 16, (5, 3), 0.4)
    (16, 10)
    """
    shares = [taper**i for i in range(len(spans))]

    def wanted(at: float) -> list[float]:
        """Rises with `at`: in proportion up to 1, then all towards N up to 2."""
        beyond = max(0.0, at - 1)
        return [num_tokens * (min(at, 1.0) * w + beyond * (1 - w)) for w in shares]

    at = _largest(lambda value: _weight(wanted(value), spans) <= total, 2.0)
    return fitted_counts(wanted(at), total, num_tokens, spans)


def _weight(counts: Sequence[float], spans: Sequence[int]) -> float:
    return sum(n * span for n, span in zip(counts, spans, strict=True))


def _largest(fits: Callable[[float], bool], most: float) -> float:
    """The largest value in [0, most] that fits, to within rounding."""
    if fits(most):
        return most
    low, high = 0.0, most
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def fitted_counts(
    wanted: Sequence[float], total: int, num_tokens: int, spans: Sequence[int]
) -> tuple[int, ...]:
    """Whole, non-increasing counts near `wanted` whose total over the layers fits the budget.

    Args:
        wanted: tokens after each step, as far as the budget allows.
        total: tokens summed over the layers of the steps.
        num_tokens: N, before the first step.
        spans: layers that run on each count.

    Raises:
        BudgetError: not even one token in every layer fits.
    """
    left = total
    counts: list[int] = []
    before = num_tokens
    for i, (value, span) in enumerate(zip(wanted, spans, strict=True)):
        later = sum(spans[i + 1 :])  # at least one token stays in every later layer
        most = (left - later) // span
        count = most if later == 0 else min(most, round(value))
        if count < 1:
            raise BudgetError(
                f"{total} token-layers over {sum(spans)} layers leave no token for step {i + 1}; "
                "raise the budget."
            )
        count = min(count, before)
        counts.append(count)
        left -= count * span
        before = count
    return tuple(counts)
