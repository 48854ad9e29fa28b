"""One item's features in, the tokens that go on out: the decision of `foveate.attach`, alone.

Images and videos are decided one at a time, so that what is kept of one never depends on its
company.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from foveate.carve.method import Method
from foveate.core.frames import Frames
from foveate.core.plan import KeepPlan
from foveate.core.visual import VisualTokens

__all__ = ["carve", "carve_item", "plan_item"]


def plan_item(
    method: Method,
    hidden: Tensor,
    *,
    grid: tuple[int, int] | None = None,
    frames: Frames | None = None,
    **tower: Tensor | None,
) -> KeepPlan | None:
    """Decide on one image or video.

    Args:
        method: reads nothing but the vision tower.
        hidden: [N, D], features as they would enter the language model.
        grid: (rows, columns), None for tokens that form no single grid.
        frames: of a video; None for an image.
        tower: what was read of the tower, by its name in VisualTokens, [N] or [N, C] each.

    Returns:
        A plan of the one item; None if all of its tokens stay.
    """
    keep = method.count(len(hidden), frames)
    if keep == len(hidden):
        return None
    # A running number would make random methods depend on what was served before.
    read: dict[str, Any] = {
        name: None if values is None else values[None] for name, values in tower.items()
    }
    visual = VisualTokens(
        hidden=hidden[None],
        grids=(grid,),
        frames=frames,
        serials=(0,),
        **read,
    )
    with torch.no_grad():
        plan = method.select(visual, keep)
    if plan.num_kept != keep:
        raise AssertionError(f"{method.name} kept {plan.num_kept}, not {keep}")
    return plan


def carve(plan: KeepPlan | None, features: Tensor) -> tuple[Tensor, Tensor]:
    """Apply a plan of one item.

    Args:
        features: [N, D], of any width: what lies beside the scored features is merged alike.

    Returns:
        ([K, D] features, [K] int64 their old places).
    """
    if plan is None:
        return features, torch.arange(len(features), device=features.device)
    return plan.apply(features[None])[0], plan.keep_idx[0]


def carve_item(
    method: Method,
    features: Tensor,
    *,
    width: int,
    grid: tuple[int, int] | None = None,
    frames: Frames | None = None,
    **tower: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Carve one item of a prompt.

    Args:
        features: [N, C].
        width: D <= C, leading columns that enter the language model first; these are scored.
        grid, frames, tower: see `plan_item`.

    Returns:
        ([K, C], [K] int64 old places).
    """
    plan = plan_item(method, features[:, :width], grid=grid, frames=frames, **tower)
    return carve(plan, features)
