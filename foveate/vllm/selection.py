"""Features of images in, the tokens that go on out: the decision of `foveate.attach`, alone.

Images of one size and budget are decided in one call, each by itself.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from foveate.carve.method import Method
from foveate.core.demand import LEAST_BYTES
from foveate.core.frames import Frames
from foveate.core.plan import KeepPlan
from foveate.core.visual import VisualTokens

__all__ = ["carve", "carve_items", "plan_items"]


def plan_items(
    method: Method,
    hidden: Tensor,
    *,
    grid: tuple[int, int] | None = None,
    frames: Frames | None = None,
    **tower: Tensor | None,
) -> KeepPlan | None:
    """Decide on images, or on videos, of one size.

    Args:
        method: reads nothing but the vision tower.
        hidden: [G, N, D], features as they would enter the language model.
        grid: (rows, columns), None for tokens that form no single grid.
        frames: of the videos; None for images.
        tower: what was read of the tower, by its name in VisualTokens, [G, N] or [G, N, C] each.

    Returns:
        A plan of the G items; None if all of their tokens stay.
    """
    num_items, num_tokens, _ = hidden.shape
    keep = method.count(num_tokens, frames)
    if keep == num_tokens:
        return None
    read: dict[str, Any] = tower
    visual = VisualTokens(
        hidden=hidden,
        grids=(grid,) * num_items,
        frames=frames,
        # A running number would make random methods depend on what was served before.
        serials=(0,) * num_items,
        **read,
    )
    with torch.no_grad():
        plan = method.select(visual, keep)
    if plan.num_kept != keep:
        raise AssertionError(f"{method.name} kept {plan.num_kept}, not {keep}")
    return plan


def carve(plan: KeepPlan | None, features: Tensor) -> tuple[Tensor, Tensor]:
    """Apply a plan.

    Args:
        features: [G, N, D], of any width: what lies beside the scored features is merged alike.

    Returns:
        ([G, K, D] features, [G, K] int64 their old places).
    """
    if plan is None:
        every = torch.arange(features.shape[1], device=features.device)
        return features, every.expand(len(features), -1)
    return plan.apply(features), plan.keep_idx


def carve_items(
    method: Method,
    features: Tensor,
    *,
    width: int,
    grid: tuple[int, int] | None = None,
    frames: Frames | None = None,
    **tower: Tensor,
) -> tuple[Tensor, Tensor]:
    """Carve items of prompts, as many at a time as a decision has modest needs for.

    Args:
        features: [G, N, C].
        width: D <= C, leading columns that enter the language model first; these are scored.
        grid, frames, tower: see `plan_items`.

    Returns:
        ([G, K, C], [G, K] int64 old places).
    """
    num_items, num_tokens, _ = features.shape
    keep = method.count(num_tokens, frames)
    at_once = num_items
    while at_once > 1 and method.demand(at_once, num_tokens, width, keep).bytes >= LEAST_BYTES:
        at_once //= 2
    found = []
    for start in range(0, num_items, at_once):
        part = slice(start, start + at_once)
        reads = {name: values[part] for name, values in tower.items()}
        plan = plan_items(method, features[part, :, :width], grid=grid, frames=frames, **reads)
        found.append(carve(plan, features[part]))
    if len(found) == 1:
        return found[0]
    kept, places = zip(*found, strict=True)
    return torch.cat(kept), torch.cat(places)
