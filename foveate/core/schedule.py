"""Budgets over several steps: token counts whose mean over the layers is the budget."""

from __future__ import annotations

from collections.abc import Sequence

from foveate.errors import BudgetError


def spans_of(layers: Sequence[int], num_layers: int) -> tuple[int, ...]:
    """How many decoder layers run on what each step leaves.

    >>> spans_of((2, 4, 6), 8)
    (2, 2, 2)
    """
    ends = (*layers[1:], num_layers)
    return tuple(end - start for start, end in zip(layers, ends, strict=True))


def geometric_counts(keep: int, num_tokens: int, spans: Sequence[int]) -> tuple[int, ...]:
    """Counts N q, N q^2, ... after each step, with q such that their mean over layers is `keep`.

    The last count takes up the rounding, so that the total never exceeds keep * sum(spans), and
    reaches it to within one token in the layers of the last step.

    Args:
        keep: mean tokens wanted, 1 <= keep <= N.
        num_tokens: N, before the first step.
        spans: layers that run on each count.

    >>> geometric_counts(4, 16, (1, 1))
    (6, 2)
    """

    def mean(ratio: float) -> float:
        counts = [num_tokens * ratio ** (i + 1) for i in range(len(spans))]
        return sum(n * span for n, span in zip(counts, spans, strict=True)) / sum(spans)

    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if mean(middle) < keep else (low, middle)
    wanted = [num_tokens * high ** (i + 1) for i in range(len(spans))]
    return fitted_counts(wanted, keep, num_tokens, spans)


def fitted_counts(
    wanted: Sequence[float], keep: int, num_tokens: int, spans: Sequence[int]
) -> tuple[int, ...]:
    """Whole, non-increasing counts near `wanted` whose total over the layers fits the budget.

    Args:
        wanted: tokens after each step, as far as the budget allows.
        keep: mean tokens over all layers of the steps.
        num_tokens: N, before the first step.
        spans: layers that run on each count.

    Raises:
        BudgetError: not even one token in every layer fits.
    """
    total = keep * sum(spans)
    counts: list[int] = []
    before = num_tokens
    for i, (value, span) in enumerate(zip(wanted, spans, strict=True)):
        later = sum(spans[i + 1 :])  # at least one token stays in every later layer
        most = (total - later) // span
        count = most if later == 0 else min(most, round(value))
        if count < 1:
            raise BudgetError(
                f"a mean of {keep} tokens over {sum(spans)} layers leaves no token for step "
                f"{i + 1}; raise the budget."
            )
        count = min(count, before)
        counts.append(count)
        total -= count * span
        before = count
    return tuple(counts)
