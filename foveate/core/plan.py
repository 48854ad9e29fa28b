"""KeepPlan: which visual tokens stay and which are merged into them, as data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from foveate.core.rows import gather_rows


@dataclass(frozen=True, kw_only=True)
class KeepPlan:
    """The decision of a method for G images of N visual tokens each.

    Args:
        num_tokens: N, visual tokens of each image.
        keep_idx: [G, K] int64, kept tokens, strictly ascending in each row, in [0, N).
        merge_src: [G, M] int64, tokens that are averaged into a kept one; not in keep_idx, unique.
        merge_dst: [G, M] int64, the kept token each source goes to; a subset of keep_idx.
        scores: named scores behind the decision, each [G, N]; for pictures and inspection only.
        notes: (label, value) of what the method chose by itself on the way; for the report.
        value_idx: [G, K] int64, the token whose row each kept place carries; None where all carry
            their own.
        adds: the mean of the sources is added to the row they go to, instead of averaged with it.

    What is neither kept nor merged is dropped.
    """

    num_tokens: int
    keep_idx: Tensor
    merge_src: Tensor
    merge_dst: Tensor
    scores: dict[str, Tensor] = field(default_factory=dict)
    notes: tuple[tuple[str, str], ...] = ()
    value_idx: Tensor | None = None
    adds: bool = False

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
    def makes_rows(self) -> bool:
        """Whether some kept place does not hand on its own row as it was."""
        return self.num_merged > 0 or self.value_idx is not None

    @property
    def num_dropped(self) -> int:
        return self.num_tokens - self.num_kept - self.num_merged

    def apply(self, x: Tensor) -> Tensor:
        """Merge, then keep: the rows that go on, in original order.

        A kept token becomes the unweighted mean of its row (of `value_idx`, or its own) and every
        source merged into it (accumulated in float32, returned in the input dtype). With `adds` it
        becomes its row plus the mean of its sources.

        Args:
            x: [G, N, D].

        Returns:
            [G, K, D].
        """
        carried = self.keep_idx if self.value_idx is None else self.value_idx
        gathered = gather_rows(x, carried)
        if self.num_merged == 0:
            return gathered
        slot = torch.searchsorted(
            self.keep_idx.contiguous(), self.merge_dst
        )  # [G, M] row in `gathered`
        rows = gathered.float()
        if x.device.type == "cpu":
            total = _sums(
                x.float(), None if self.adds else carried, slot, self.merge_src, self.num_kept
            )
        else:
            sources = gather_rows(x, self.merge_src).float()
            total = with_added(torch.zeros_like(rows) if self.adds else rows, slot, sources)
        count = torch.ones(self.keep_idx.shape, device=x.device)
        count = count.scatter_add(1, slot, torch.ones(slot.shape, device=x.device))
        if self.adds:
            mean = rows + total / (count - 1).clamp_min(1).unsqueeze(-1)
        else:
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
        if self.num_images == 1:
            return self
        return KeepPlan(
            num_tokens=self.num_tokens,
            keep_idx=self.keep_idx[i : i + 1],
            merge_src=self.merge_src[i : i + 1],
            merge_dst=self.merge_dst[i : i + 1],
            scores={name: score[i : i + 1] for name, score in self.scores.items()},
            notes=self.notes,
            value_idx=None if self.value_idx is None else self.value_idx[i : i + 1],
            adds=self.adds,
        )

    def repeat_interleave(self, count: int) -> KeepPlan:
        """Every image `count` times, one after the other."""
        return replace(
            self,
            keep_idx=self.keep_idx.repeat_interleave(count, dim=0),
            merge_src=self.merge_src.repeat_interleave(count, dim=0),
            merge_dst=self.merge_dst.repeat_interleave(count, dim=0),
            scores={k: v.repeat_interleave(count, dim=0) for k, v in self.scores.items()},
            value_idx=None
            if self.value_idx is None
            else self.value_idx.repeat_interleave(count, dim=0),
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
        if self.value_idx is not None:
            assert self.value_idx.shape == self.keep_idx.shape, "value_idx is not as keep_idx is"
            inside = (self.value_idx >= 0) & (self.value_idx < self.num_tokens)
            assert bool(inside.all()), "value_idx out of range"

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, for JSON."""
        lists: dict[str, Any] = {
            "num_tokens": self.num_tokens,
            "keep_idx": self.keep_idx.tolist(),
            "merge_src": self.merge_src.tolist(),
            "merge_dst": self.merge_dst.tolist(),
        }
        if self.value_idx is not None:
            lists["value_idx"] = self.value_idx.tolist()
        if self.adds:
            lists["adds"] = True
        return lists


def compose(first: KeepPlan, second: KeepPlan) -> KeepPlan:
    """One image's plan of two steps, in the numbering of the first: what became of each token.

    A token that was merged into one that was merged later counts as merged into the last; into one
    that was dropped later, as dropped. For reports and pictures: a mean of means is not `apply`.

    Args:
        first: G = 1, N -> K tokens.
        second: G = 1, of those K.
    """
    alive = first.keep_idx[0]
    keep_idx = alive[second.keep_idx[0]]
    src, dst = alive[second.merge_src[0]], alive[second.merge_dst[0]]
    heir = torch.full((first.num_tokens,), -1, dtype=torch.long, device=alive.device)
    heir[keep_idx] = keep_idx
    heir[src] = dst
    inherited = heir[first.merge_dst[0]]
    found = inherited >= 0
    return KeepPlan(
        num_tokens=first.num_tokens,
        keep_idx=keep_idx[None],
        merge_src=torch.cat([first.merge_src[0][found], src])[None],
        merge_dst=torch.cat([inherited[found], dst])[None],
        scores=first.scores,
        notes=tuple(dict.fromkeys((*first.notes, *second.notes))),
    )


def num_merged(plans: Sequence[KeepPlan]) -> int | Tensor:
    """Merged tokens of the composition of one image's plans, without waiting for the device.

    Args:
        plans: of its steps, G = 1 each, every one in the numbering of what the one before left.

    Returns:
        A number; a tensor [] int64 on the device where it follows from values.
    """
    if len(plans) == 1 or not any(plan.num_merged for plan in plans[:-1]):
        return sum(plan.num_merged for plan in plans)
    alive = torch.arange(plans[0].num_tokens, device=plans[0].keep_idx.device)
    heir = alive
    for plan in plans:
        kept, src, dst = (alive[t[0]] for t in (plan.keep_idx, plan.merge_src, plan.merge_dst))
        own = torch.full_like(heir, -1)
        own[kept] = kept
        own[src] = dst
        heir = torch.where(heir >= 0, own[heir.clamp_min(0)], -1)
        alive = kept
    return (heir >= 0).sum() - plans[-1].num_kept


def with_added(total: Tensor, slot: Tensor, sources: Tensor) -> Tensor:
    """`sources` added to the rows they go to, the same on every run on every device.

    CUDA's scatter adds in the order in which threads arrive, so that sums differ from run to run.
    Its accumulating index_put sorts first. A CPU adds whole rows one after the other.

    Args:
        total: [G, K, D].
        slot: [G, M] int64, row of `total` that each source goes to.
        sources: [G, M, D].

    Returns:
        [G, K, D].
    """
    images = torch.arange(len(slot), device=slot.device).unsqueeze(1).expand_as(slot)
    if total.device.type == "cpu":
        flat = (images * total.shape[1] + slot).flatten()
        return total.flatten(0, 1).index_add(0, flat, sources.flatten(0, 1)).view_as(total)
    return total.index_put((images, slot), sources, accumulate=True)


def _sums(x: Tensor, begin: Tensor | None, slot: Tensor, src: Tensor, num_slots: int) -> Tensor:
    """Sums of rows of `x` by the slot they go to, in their order. A CPU copies none of them first.

    Args:
        x: [G, N, D] float32.
        begin: [G, K] int64, the row of `x` that each slot begins with; None where with zeros.
        slot, src: [G, M] int64, where a source goes to, and which row of `x` it is.
        num_slots: K.

    Returns:
        [G, K, D].
    """
    num_images, num_tokens, width = x.shape
    image = torch.arange(num_images).unsqueeze(1)
    slot, src = (slot + num_slots * image).flatten(), (src + num_tokens * image).flatten()
    every = torch.arange(num_images * num_slots)
    if begin is not None:
        slot = torch.cat([every, slot])
        src = torch.cat([(begin + num_tokens * image).flatten(), src])
    slot, order = torch.sort(slot, stable=True)
    starts = torch.searchsorted(slot, every)
    sums = embedding_bag(src[order], x.reshape(-1, width), starts, mode="sum")
    return sums.view(num_images, num_slots, width)


def weighted_merge(x: Tensor, *, src: Tensor, dst: Tensor, sizes: Tensor, left: Tensor) -> Tensor:
    """Average rows into others, weighted by how many tokens each stands for; the sources go.

    Args:
        x: [G, n, D].
        src, dst: [G, r] int64; no dst is a src.
        sizes: [G, n] float.
        left: [G, n - r] int64, the others than `src`, in any order.

    Returns:
        [G, n - r, D] in the dtype of x, in the order of `left`.
    """
    total = x.float() * sizes.unsqueeze(-1)
    total = with_added(total, dst, gather_rows(total, src))
    new_sizes = sizes.scatter_add(1, dst, sizes.gather(1, src))
    changed = torch.zeros_like(sizes, dtype=torch.bool).scatter_(1, dst, True)
    mean = (total / new_sizes.unsqueeze(-1)).to(x.dtype)
    merged = torch.where(changed.unsqueeze(-1), mean, x)
    return gather_rows(merged, left)


def merge_to_owners(owners: Tensor, num_owners: int) -> KeepPlan:
    """The plan that keeps the tokens which own themselves, the others merged into their owners.

    Args:
        owners: [G, N] int64; owners own themselves, and as many in every image.
        num_owners: how many.
    """
    num_tokens = owners.shape[1]
    every = torch.arange(num_tokens, device=owners.device).expand_as(owners)
    # Owners first, in order: nobody has to be asked how many there are.
    order = torch.sort((owners != every).to(torch.uint8), dim=-1, stable=True).indices
    keep_idx, merge_src = order[:, :num_owners], order[:, num_owners:]
    return KeepPlan(
        num_tokens=num_tokens,
        keep_idx=keep_idx,
        merge_src=merge_src,
        merge_dst=owners.gather(1, merge_src),
    )


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
