"""The --method and --keep options as a method with its budget."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from foveate.carve.method import Method


def build_method(name: str, keep: str, *, prune_layer: int | None = None) -> Method:
    """A method as `foveate.carve.spec.parse_method` reads it.

    Raises:
        MethodError, BudgetError: for what cannot be.
    """
    from foveate.carve.spec import parse_method
    from foveate.core.budget import parse_budget

    return parse_method(name, parse_budget(keep), prune_layer=prune_layer)
