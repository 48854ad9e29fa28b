"""One image's features in, the tokens that go on out: the decision of `foveate.attach`, alone.

Images are decided one at a time, so that what is kept of one never depends on its company.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from foveate.carve.method import Method
from foveate.core.plan import KeepPlan
from foveate.core.visual import VisualTokens

__all__ = ["carve", "carve_units", "num_kept", "plan_image"]


def num_kept(method: Method, lengths: Sequence[int]) -> int:
    """Tokens that are left of units (images or frames) of these many tokens."""
    return sum(method.budget.count(length, image=i) for i, length in enumerate(lengths))


def plan_image(
    method: Method,
    hidden: Tensor,
    *,
    grid: tuple[int, int] | None = None,
    **tower: Tensor | None,
) -> KeepPlan | None:
    """Decide on one image.

    Args:
        method: reads nothing but the vision tower.
        hidden: [N, D], features as they would enter the language model.
        grid: (rows, columns), None for tokens that form no single grid.
        tower: what was read of the tower, by its name in VisualTokens, [N] or [N, C] each.

    Returns:
        A plan of one image; None if all of its tokens stay.
    """
    keep = method.budget.count(len(hidden))
    if keep == len(hidden):
        return None
    # A running number would make random methods depend on what was served before.
    read: dict[str, Any] = {
        name: None if values is None else values[None] for name, values in tower.items()
    }
    visual = VisualTokens(
        hidden=hidden[None],
        grids=(grid,),
        serials=(0,),
        **read,
    )
    with torch.no_grad():
        plan = method.select(visual, keep)
    if plan.num_kept != keep:
        raise AssertionError(f"{method.name} kept {plan.num_kept}, not {keep}")
    return plan


def carve(plan: KeepPlan | None, features: Tensor) -> tuple[Tensor, Tensor]:
    """Apply a plan of one image.

    Args:
        features: [N, D], of any width: what lies beside the scored features is merged alike.

    Returns:
        ([K, D] features, [K] int64 their old places).
    """
    if plan is None:
        return features, torch.arange(len(features), device=features.device)
    return plan.apply(features[None])[0], plan.keep_idx[0]


def carve_units(
    method: Method,
    features: Tensor,
    lengths: Sequence[int],
    *,
    width: int,
    grid: tuple[int, int] | None = None,
    **tower: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Carve what one item of a prompt consists of: an image, or the frames of a video.

    Args:
        features: [sum of lengths, C].
        lengths: tokens of each unit.
        width: D <= C, leading columns that enter the language model first; these are scored.
        grid: of every unit.
        tower: of all tokens, see `plan_image`, [sum of lengths] or [sum of lengths, C] each.

    Returns:
        ([K, C], [K] int64 old places among all tokens of the item).
    """
    kept, places, start = [], [], 0
    for part in torch.split(features, list(lengths)):
        own = {
            name: None if values is None else values[start : start + len(part)]
            for name, values in tower.items()
        }
        plan = plan_image(method, part[:, :width], grid=grid, **own)
        unit, at = carve(plan, part)
        kept.append(unit)
        places.append(at + start)
        start += len(part)
    return torch.cat(kept), torch.cat(places)
