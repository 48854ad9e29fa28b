"""The --method and --keep options as a method with its budget."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from foveate.prune import Method


def build_method(name: str, keep: str, *, prune_layer: int | None = None) -> Method:
    """Raises MethodError and BudgetError for what cannot be."""
    from foveate.core.budget import parse_budget
    from foveate.prune import method

    budget = parse_budget(keep)
    settings: dict[str, Any] = (
        {"keep_tokens": budget.keep_tokens}
        if budget.keep_tokens is not None
        else {"keep_ratio": budget.keep_ratio}
    )
    return method(name, **settings, prune_layer=prune_layer)
