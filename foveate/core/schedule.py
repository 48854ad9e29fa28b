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


def geometric_counts(total: int, num_tokens: int, spans: Sequence[int]) -> tuple[int, ...]:
    """Counts N q, N q^2, ... after each step, with q such that they spend `total` token-layers.

    The last count takes up the rounding, so that the total is never exceeded, and is reached to
    within one token in the layers of the last step.

    Args:
        total: tokens summed over layers.
        num_tokens: N, before the first step.
        spans: layers that run on each count.

    >>> geometric_counts(28, 16, (2, 2))
    (9, 5)
    """

    def wanted(share: float) -> list[float]:
        return [num_tokens * share ** (i + 1) for i in range(len(spans))]

    share = _largest(lambda value: _weight(wanted(value), spans) <= total, 1.0)
    return fitted_counts(wanted(share), total, num_tokens, spans)


def total_of_cut(
    cut: int, keep: int, num_tokens: int, layers: Sequence[int], num_layers: int
) -> int:
    """Token-layers that a single cut leaves to the layers from the first step on.

    Args:
        cut: layer of the single cut; one before the first step counts as there.
        keep: tokens that it keeps.
        num_tokens: of the image.
        layers: of the steps.
        num_layers: of the decoder.

    >>> total_of_cut(2, 49, 196, (0, 5), 8)
    686
    """
    cut = max(cut, layers[0])  # where no layer before may run short
    return (cut - layers[0]) * num_tokens + (num_layers - cut) * keep


def tapered_counts(
    total: int, num_tokens: int, spans: Sequence[int], taper: float, enough: float = 1.0
) -> tuple[int, ...]:
    """Counts K, K t, K t^2, ... after each step, with K such that they spend `total` token-layers.

    K is at most enough * N as long as a later count is less; what that leaves over goes to the
    later ones, until all are equal. Rounding is as in `geometric_counts`.

    Args:
        total: tokens summed over layers.
        num_tokens: N, before the first step.
        spans: layers that run on each count.
        taper: t in (0, 1], what each step leaves of the one before.
        enough: share of N in (0, 1].

    >>> tapered_counts(96, 196, (5, 3), 0.4)
    (15, 7)
    >>> tapered_counts(96, 196, (5, 3), 1.0)
    (12, 12)
    >>> tapered_counts(640, 196, (5, 3), 0.4)
    (103, 41)
    >>> tapered_counts(640, 196, (5, 3), 0.4, enough=0.5)
    (98, 50)
    """
    shares = [taper**i for i in range(len(spans))]
    first = min(total / _weight(shares, spans), enough * num_tokens)
    first = min(max(first, total / sum(spans)), num_tokens)

    def wanted(least: float) -> list[float]:
        return [first * max(share, least) for share in shares]

    least = _largest(lambda value: _weight(wanted(value), spans) <= total, 1.0)
    return fitted_counts(wanted(least), total, num_tokens, spans)


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
        count = most if later == 0 else min(most, max(1, round(value)))
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
