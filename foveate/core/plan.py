"""KeepPlan: which visual tokens stay and which are merged into them, as data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class KeepPlan:
    """The decision of a method for G images of N visual tokens each.

    Args:
        num_tokens: N, visual tokens of each image.
        keep_idx: [G, K] int64, kept tokens, strictly ascending in each row, in [0, N).
        merge_src: [G, M] int64, tokens that are averaged into a kept one; not in keep_idx, unique.
        merge_dst: [G, M] int64, the kept token each source goes to; a subset of keep_idx.
        scores: named scores behind the decision, each [G, N]; for pictures and inspection only.

    What is neither kept nor merged is dropped.
    """

    num_tokens: int
    keep_idx: Tensor
    merge_src: Tensor
    merge_dst: Tensor
    scores: dict[str, Tensor] = field(default_factory=dict)

    @property
    def num_images(self) -> int:
        return int(self.keep_idx.shape[0])

    @property
    def num_kept(self) -> int:
        return int(self.keep_idx.shape[1])

    @property
    def num_merged(self) -> int:
        return int(self.merge_src.shape[1])

    @property
    def num_dropped(self) -> int:
        return self.num_tokens - self.num_kept - self.num_merged

    def apply(self, x: Tensor) -> Tensor:
        """Merge, then keep: the rows that go on, in original order.

        A kept token becomes the unweighted mean of itself and every source merged into it
        (accumulated in float32, returned in the input dtype).

        Args:
            x: [G, N, D].

        Returns:
            [G, K, D].
        """
        gathered = x.gather(1, self.keep_idx.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
        if self.num_merged == 0:
            return gathered
        slot = torch.searchsorted(self.keep_idx, self.merge_dst)  # [G, M] row in `gathered`
        wide = (-1, -1, x.shape[-1])
        sources = x.gather(1, self.merge_src.unsqueeze(-1).expand(*wide)).float()
        total = gathered.float().scatter_add(1, slot.unsqueeze(-1).expand(*wide), sources)
        count = torch.ones(self.keep_idx.shape, device=x.device)
        count = count.scatter_add(1, slot, torch.ones(slot.shape, device=x.device))
        mean = total / count.unsqueeze(-1)
        # Rows without a source are handed on as they were, so float32 arithmetic cannot touch them.
        return torch.where((count > 1).unsqueeze(-1), mean.to(x.dtype), gathered)

    def status(self) -> Tensor:
        """What became of each token: [G, N] int64, 2 kept, 1 merged, 0 dropped."""
        out = torch.zeros(
            self.num_images, self.num_tokens, dtype=torch.long, device=self.keep_idx.device
        )
        return out.scatter_(1, self.merge_src, 1).scatter_(1, self.keep_idx, 2)

    def image(self, i: int) -> KeepPlan:
        """The plan of image `i` alone (G = 1)."""
        return KeepPlan(
            num_tokens=self.num_tokens,
            keep_idx=self.keep_idx[i : i + 1],
            merge_src=self.merge_src[i : i + 1],
            merge_dst=self.merge_dst[i : i + 1],
            scores={name: score[i : i + 1] for name, score in self.scores.items()},
        )

    def check(self, keep: int) -> None:
        """Raise AssertionError unless the plan keeps its contract for a budget of `keep` tokens."""
        assert self.num_kept == keep, f"plan keeps {self.num_kept}, budget is {keep}"
        ascending = (self.keep_idx.diff(dim=-1) > 0).all()
        assert bool(ascending), "keep_idx is not strictly ascending"
        inside = (self.keep_idx >= 0) & (self.keep_idx < self.num_tokens)
        assert bool(inside.all()), "keep_idx out of range"
        status = self.status()
        counted = (status == 1).sum(-1)
        assert bool((counted == self.num_merged).all()), "merge_src repeats or overlaps keep_idx"
        kept_dst = status.gather(1, self.merge_dst) == 2
        assert bool(kept_dst.all()), "merge_dst holds a token that is not kept"

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, for JSON."""
        return {
            "num_tokens": self.num_tokens,
            "keep_idx": self.keep_idx.tolist(),
            "merge_src": self.merge_src.tolist(),
            "merge_dst": self.merge_dst.tolist(),
        }


def keep_only(
    keep_idx: Tensor, num_tokens: int, scores: dict[str, Tensor] | None = None
) -> KeepPlan:
    """A plan that merges nothing. `keep_idx` [G, K] may come in any order."""
    empty = keep_idx.new_empty(keep_idx.shape[0], 0)
    return KeepPlan(
        num_tokens=num_tokens,
        keep_idx=keep_idx.sort(dim=-1).values,
        merge_src=empty,
        merge_dst=empty,
        scores=scores or {},
    )
