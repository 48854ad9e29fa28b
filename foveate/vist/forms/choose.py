"""Which tokens of a document go on: the ends of its units, or what a carving method chooses."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor

from foveate.core.plan import KeepPlan
from foveate.core.visual import VisualTokens
from foveate.errors import InputError

__all__ = ["CAN_GIVE", "Carver", "check_carver", "ends_of_units", "rows_of_plan"]

# What a method may look at beside the hidden states of the layer at the cut.
CAN_GIVE = frozenset({"attention", "keys", "serials"})


@runtime_checkable
class Carver(Protocol):
    """A carving method, as those of foveate.METHODS are."""

    name: str

    @property
    def needs(self) -> Collection[str]:
        """What it looks at beside the hidden states."""

    def count(self, num_tokens: int) -> int:
        """How many of so many tokens stay."""

    def select(self, visual: VisualTokens, keep: int) -> KeepPlan:
        """Which do."""


def check_carver(carver: Carver) -> None:
    """Refuse what is no method, or one that needs what a text does not have.

    Raises:
        InputError: either.
    """
    if not isinstance(carver, Carver):
        raise InputError(
            f"carving={str(carver)[:60]!r} is no carving method; pass one of foveate's, e.g. "
            'foveate.method("divprune", keep_ratio=0.33), or None for the ends of units.'
        )
    missing = sorted(set(carver.needs) - CAN_GIVE)
    if missing:
        raise InputError(
            f"{carver.name} looks at {', '.join(missing)}, which a document read as text has not; "
            f"use a method that needs no more than {', '.join(sorted(CAN_GIVE))}, e.g. divprune "
            "or tokencarve(merge_fraction=0)."
        )


def rows_of_plan(plan: KeepPlan, carver: Carver) -> Tensor:
    """The tokens that a plan keeps, [K] ascending.

    Raises:
        InputError: it makes new rows of several tokens, which a memory cannot name.
    """
    if plan.makes_rows:
        raise InputError(
            f"{carver.name} merges tokens, and a memory says which tokens go on as they are; turn "
            "merging off, e.g. tokencarve(merge_fraction=0), or use a method that only prunes."
        )
    return plan.keep_idx[0]


def ends_of_units(starts: Sequence[int], num_tokens: int, count: int) -> list[int]:
    """`count` tokens, the last ones of every unit in proportion to its length.

    In a causal model the end of a sentence, a line or a demonstration has seen all of it.

    Args:
        starts: first token of each unit, ascending from 0.
        num_tokens: of the document.
        count: of tokens that stay, at most `num_tokens`.

    Example:
        >>> ends_of_units([0, 4, 10], 12, 6)
        [2, 3, 7, 8, 9, 11]
    """
    kept: list[int] = []
    for first, stop in zip(starts, [*starts[1:], num_tokens], strict=True):
        # What is due by here less what was taken: the counts of all units add up to `count`.
        due = min((2 * count * stop + num_tokens) // (2 * num_tokens) - len(kept), stop - first)
        kept += range(stop - due, stop)
    return kept
