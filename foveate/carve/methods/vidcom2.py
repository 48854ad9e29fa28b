"""VidCom2: more tokens for frames that are unlike the rest of the video (arXiv:2505.14454)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from foveate.carve.frame_method import FrameMethod
from foveate.core.frame_budgets import FrameBudgets, frame_budgets
from foveate.core.plan import KeepPlan, keep_only
from foveate.core.visual import VisualTokens
from foveate.errors import MethodError


@dataclass(frozen=True, kw_only=True)
class VidCom2(FrameMethod):
    """Frame budgets by uniqueness; in each frame the tokens least like its mean and the video's.

    See `core.frame_budgets`. The authors round the budget of every frame, so that their sum is only
    about the budget; here what rounding leaves goes to the largest remainders, so that it is. What
    ends a video behind its last frame stays. A still image keeps what is least like its mean.
    """

    name = "vidcom2"
    summary = "gives unusual frames of a video more of the budget; keeps the least usual tokens"
    paper = "arXiv:2505.14454"
    fidelity = (
        "as the authors' code at xuyang-liu16/VidCom2@944a17d, counts of frames rounded so that "
        "they add up to the budget"
    )

    def plan(self, visual: VisualTokens, keep: int) -> KeepPlan:
        videos, rest = self.split(visual)
        if keep <= rest:
            raise MethodError(
                f"{self.name} keeps the {rest} tokens that end a video, and the budget is {keep}; "
                "raise it."
            )
        shares = [self._budgets(video, keep - rest) for video in videos]
        n, device = visual.num_tokens, visual.hidden.device
        end = torch.arange(n - rest, n, device=device)
        kept = torch.stack([torch.cat([share.kept(), end]) for share in shares])
        score = torch.stack([(s.video_score + s.frame_score).flatten() for s in shares])
        likeness = torch.cat([score, score.new_zeros(len(score), rest)], dim=1)
        return keep_only(kept, n, {"likeness": likeness})

    @staticmethod
    def _budgets(video: Tensor, keep: int) -> FrameBudgets:
        """Of a video [T, n, D], for `keep` of its tokens."""
        budgets = frame_budgets(video, keep / video.shape[:2].numel())
        return budgets.summing_to(keep)
