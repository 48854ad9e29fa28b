"""VidCom2: more tokens for frames that are unlike the rest of the video (arXiv:2505.14454)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import normalize

_ALPHAS = (2**-3, 2**-2, 2**-1, 2**0, 2**1)  # widths of the Gaussians
_TEMPERATURE = 0.01


@dataclass(frozen=True)
class FrameBudgets:
    """How many tokens each frame keeps, and by which scores.

    Args:
        counts: [T] int64.
        scales: [T], share of its tokens that a frame is given.
        video_score, frame_score: [T, n], likeness to the mean of the video, and of the frame.
    """

    counts: Tensor
    scales: Tensor
    video_score: Tensor
    frame_score: Tensor

    def summing_to(self, keep: int) -> FrameBudgets:
        """The same shares with counts that add up to `keep`: rounded by largest remainders.

        What a full frame cannot take goes to the others, as much to each. Every frame has a token
        where there are enough. Where plain rounding has that sum and no frame less than one token,
        counts are those of plain rounding.

        Args:
            keep: 1 <= keep <= T * n.
        """
        per_frame = self.frame_score.shape[-1]
        wanted = (self.scales.double() * per_frame).tolist()
        least = int(keep >= len(wanted))
        counts = [min(max(math.floor(share), least), per_frame) for share in wanted]
        while (left := keep - sum(counts)) != 0:
            step = 1 if left > 0 else -1
            limit = per_frame if left > 0 else least
            free = [t for t, count in enumerate(counts) if count != limit]
            free.sort(key=lambda t: step * (counts[t] - wanted[t]))
            for t in free[: abs(left)]:
                counts[t] += step
        return replace(self, counts=torch.tensor(counts, device=self.counts.device))

    def kept(self) -> Tensor:
        """The tokens least like both means, frame by frame: ascending places. [sum of counts]"""
        score = self.video_score + self.frame_score
        rank = score.argsort(dim=-1, stable=True).argsort(dim=-1)
        return (rank < self.counts[:, None]).flatten().nonzero()[:, 0]


def frame_budgets(video: Tensor, keep_ratio: float) -> FrameBudgets:
    """Frames whose tokens are less like the video's mean are given more.

    With u the tokens on the half of the channels of least variance, scaled to length one, and c
    their mean over the video (the frame), a token's score is

        sum over alpha = 2^-3 .. 2^1 of exp(-|u - c|^2 / (2 alpha)).

    A frame's share is keep_ratio (1 + p - mean p), at most 1, p = softmax(-(its mean score) / 0.01)
    over frames. Counts are rounded frame by frame, so that their sum is only about
    keep_ratio * T * n.

    Args:
        video: [T, n, D].
        keep_ratio: in (0, 1].
    """
    x = video.float()
    _, per_frame, width = x.shape
    variance = x.flatten(0, 1).var(dim=0)
    steady = variance.sort(stable=True).indices[: max(1, width // 2)].sort().values
    u = normalize(x[..., steady], dim=-1)
    video_score = _likeness(u, u.mean(dim=(0, 1), keepdim=True))
    frame_score = _likeness(u, u.mean(dim=1, keepdim=True))
    p = (-video_score.mean(dim=-1) / _TEMPERATURE).softmax(dim=-1)
    scales = (keep_ratio * (1 + p - p.mean())).clamp(max=1.0)
    counts = (scales * per_frame).round().long().clamp(1, per_frame)
    return FrameBudgets(counts, scales, video_score, frame_score)


def _likeness(u: Tensor, centre: Tensor) -> Tensor:
    """[T, n, C], broadcast -> [T, n]"""
    distance = (u - centre).square().sum(dim=-1)
    return torch.stack([(-distance / (2 * alpha)).exp() for alpha in _ALPHAS]).sum(dim=0)
