"""Merged rows are written into what is left of a sequence: the same as into all of it, then cut."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from foveate.carve.engine.decide import Group
from foveate.carve.engine.left import Left, narrowed
from foveate.core.layout import columns_of, kept_rows
from foveate.core.plan import KeepPlan
from foveate.models.masks import narrow_tokens

LENGTH, WIDTH = 40, 6


def drawn(kind: str, num_images: int, num_tokens: int, generator: torch.Generator) -> KeepPlan:
    """Plans that merge, in every way that a plan can say so."""
    keep, moved = num_tokens // 2, num_tokens // 3
    order = torch.stack(
        [torch.randperm(num_tokens, generator=generator) for _ in range(num_images)]
    )
    kept = order[:, :keep].sort(dim=-1).values
    chosen = torch.randint(keep, (num_images, moved), generator=generator)
    return KeepPlan(
        num_tokens=num_tokens,
        keep_idx=kept,
        merge_src=order[:, keep : keep + (0 if kind == "values" else moved)],
        merge_dst=kept.gather(1, chosen)[:, : 0 if kind == "values" else moved],
        value_idx=order[:, -keep:] if kind == "values" else None,
        adds=kind == "added",
    )


def groups_of(
    kind: str, spans: list[tuple[int, int, int]], left: Tensor | None, seed: int
) -> list[Group]:
    """A group for each (sample, first column, count); of `left` [S] columns where it is given."""
    generator = torch.Generator().manual_seed(seed)
    groups = []
    for sample, first, count in spans:
        tokens = torch.arange(first, first + count)
        if left is not None:
            tokens = tokens[torch.isin(tokens, left[sample])]
        plan = drawn(kind, 1, len(tokens), generator)
        is_together = left is None and first % 2 == 0  # both ways of reading an image
        groups.append(
            Group(
                (sample,),
                torch.tensor([[sample]]),
                tokens[None],
                plan,
                first if is_together else None,
            )
        )
    return groups


def call_of(begun: Tensor) -> Any:
    """What `narrowed` reads of a call."""
    known = SimpleNamespace(
        begun=begun, num_begun=tuple(begun.sum(dim=1).tolist()), num_visual=int(begun.sum())
    )
    return SimpleNamespace(known=known, visual=begun)


def in_the_whole_sequence(groups: list[Group], hidden: Tensor, keep: Tensor, old: Any) -> Tensor:
    """The form before: merged rows into a copy of everything, by one index for every token."""
    for group in groups:
        rows = None if old is None else old[group.samples[:, 0]]
        kept = group.tokens.gather(1, group.plan.keep_idx)
        merged = one_by_one(group.plan, hidden[group.samples, columns_of(group.tokens, rows)])
        hidden = hidden.index_put((group.samples, columns_of(kept, rows)), merged)
        keep[group.samples, group.tokens] = False
        keep[group.samples, kept] = True
    after = kept_rows(keep, int(keep.sum(dim=1).max()))
    places = after if old is None else columns_of(after.clamp_min(0), old)
    places = torch.where(after == -1, -1, places)
    return narrow_tokens(hidden, places, token_dim=-2)


def one_by_one(plan: KeepPlan, x: Tensor) -> Tensor:
    """What a plan makes of rows [G, N, D], a source at a time."""
    out = []
    for image in range(plan.num_images):
        carried = plan.keep_idx if plan.value_idx is None else plan.value_idx
        own = {
            int(k): x[image, c] for k, c in zip(plan.keep_idx[image], carried[image], strict=True)
        }
        total = {k: torch.zeros_like(v) if plan.adds else v.clone() for k, v in own.items()}
        count = dict.fromkeys(own, 0)
        for src, dst in zip(
            plan.merge_src[image].tolist(), plan.merge_dst[image].tolist(), strict=True
        ):
            total[dst] = total[dst] + x[image, src]
            count[dst] += 1
        for k, value in own.items():
            if count[k]:
                own[k] = value + total[k] / count[k] if plan.adds else total[k] / (count[k] + 1)
        out.append(torch.stack(list(own.values())))
    return torch.stack(out)


SPANS = {
    "one": [(0, 4, 12)],
    "one, read by an index": [(0, 5, 12)],
    "two beside each other": [(0, 4, 12), (0, 16, 9)],
    "a ragged batch": [(0, 6, 12), (1, 3, 15), (2, 8, 6), (2, 20, 12)],
}


@pytest.mark.parametrize("kind", ["averaged", "added", "values"])
@pytest.mark.parametrize("name", SPANS)
@pytest.mark.parametrize("is_second_step", [False, True])
@pytest.mark.parametrize("needs_gradient", [False, True])
def test_as_into_the_whole_sequence(
    kind: str, name: str, is_second_step: bool, needs_gradient: bool
) -> None:
    spans = SPANS[name]
    batch = spans[-1][0] + 1
    hidden = torch.randn(batch, LENGTH, WIDTH, generator=torch.Generator().manual_seed(7))
    begun = torch.ones(batch, LENGTH, dtype=torch.bool)
    begun[-1, : 2 if batch > 1 else 0] = False
    left: Left | None = None
    if is_second_step:
        first = groups_of("averaged", spans, None, 1)
        hidden, left = narrowed(first, hidden, None, call_of(begun))
    hidden.requires_grad_(needs_gradient)
    before = hidden.detach().clone()
    groups = groups_of(kind, spans, left.rows if left is not None else None, 2)
    short, after = narrowed(groups, hidden, left, call_of(begun))
    keep = left.keep_mask.clone() if left is not None else begun.clone()
    old = left.rows if left is not None else None
    expected = in_the_whole_sequence(groups, before.clone(), keep, old)
    real = after.rows != -1
    assert torch.equal(short.detach()[real], expected[real])
    assert torch.equal(hidden.detach(), before), "what came in was written to"
    if needs_gradient:
        short.sum().backward()
        assert bool(hidden.grad.abs().sum() > 0)
    unmerged = narrow_tokens(before, after.places, token_dim=-2)
    assert not torch.equal(short.detach()[real], unmerged[real]), "nothing was merged"
