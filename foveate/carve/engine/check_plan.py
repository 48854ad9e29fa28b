"""What a method decided, held to what a KeepPlan promises."""

from __future__ import annotations

from typing import Any

import torch

from foveate.carve.method import Method
from foveate.core.plan import KeepPlan
from foveate.core.visual import VisualTokens
from foveate.errors import MethodError


def check_plan(method: Method, plan: Any, visual: VisualTokens, keep: int) -> None:
    """Hold a method to what a KeepPlan promises, so that a wrong one does not answer from anything.

    Shapes cost nothing to look at. What the indices are is read only of methods from elsewhere: on
    a GPU it means waiting, and tests hold the built-in ones to it.

    Raises:
        MethodError: names the method and what is wrong.
    """
    if not isinstance(plan, KeepPlan):
        raise MethodError(f"{method.name}.plan returned {type(plan).__name__}, no KeepPlan.")
    if plan.num_kept != keep and (method.exact_budget or plan.num_kept > keep):
        raise MethodError(
            f"{method.name}.plan kept {plan.num_kept} tokens of each image, not {keep}."
        )
    rows, counts = visual.num_images, (plan.merge_src.shape, plan.merge_dst.shape)
    if plan.num_tokens != visual.num_tokens or plan.num_images != rows or counts[0] != counts[1]:
        raise MethodError(
            f"{method.name}.plan returned indices {tuple(plan.keep_idx.shape)} into "
            f"{plan.num_tokens} tokens for {rows} images of {visual.num_tokens}."
        )
    if all(type(member).reference() == member.name for member in method.members):
        return
    kept, moved = plan.keep_idx, torch.cat([plan.merge_src, plan.merge_dst], dim=1)
    is_ascending = bool((kept[:, 1:] > kept[:, :-1]).all())
    inside = [bool(((idx >= 0) & (idx < visual.num_tokens)).all()) for idx in (kept, moved)]
    if not (is_ascending and all(inside)):
        raise MethodError(
            f"{method.name}.plan returned indices that are not ascending or not within its "
            f"{visual.num_tokens} tokens; return keep_idx sorted, each token once."
        )
    went_on = torch.zeros(rows, visual.num_tokens, dtype=torch.bool, device=kept.device)
    went_on.scatter_(1, kept, True)
    if bool(went_on.gather(1, plan.merge_src).any()) or not bool(
        went_on.gather(1, plan.merge_dst).all()
    ):
        raise MethodError(
            f"{method.name}.plan merges tokens that are kept, or into tokens that are not."
        )
