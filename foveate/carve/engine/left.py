"""What is left of a call's new tokens after a step, and the rows of those that are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from foveate.carve.engine.call import Call
from foveate.carve.engine.decide import Group
from foveate.core.layout import PAD, columns_of, kept_rows, sent
from foveate.models.masks import narrow_tokens


@dataclass(frozen=True, kw_only=True, eq=False)
class Left:
    """What is left of the new tokens after a step.

    Args:
        rows: [B, L] columns that are left; PAD where a row has fewer.
        places: [B, L] where these stood before the step, among what was left then; PAD likewise.
        keep_mask: [B, S] bool, the same as a mask.
        visual_mask: [B, S] bool, what was visual.
        counts: of each row, how many tokens are left.
        num_visual: visual tokens of the batch that are left.
        log_sizes: [B, L] float32, log of how many tokens each was made of; None where all count
            once.
    """

    rows: Tensor
    places: Tensor
    keep_mask: Tensor
    visual_mask: Tensor
    counts: tuple[int, ...]
    num_visual: int
    log_sizes: Tensor | None = None

    @property
    def has_filler(self) -> bool:
        """Whether PAD occurs in `rows`."""
        return min(self.counts) != max(self.counts)

    @cached_property
    def gone(self) -> Tensor:
        """Visual tokens that were dropped, [B, S] bool."""
        return self.visual_mask.to(self.keep_mask.device) & ~self.keep_mask


def narrowed(
    groups: Sequence[Group], hidden: Tensor, before: Left | None, call: Call
) -> tuple[Tensor, Left]:
    """Merge and keep: [B, L, D] -> [B, L', D], and what is left.

    Args:
        groups: of the step.
        hidden: what entered it.
        before: what was left then; None for all.
        call: whose tokens they are.
    """
    old = before.rows if before is not None else None
    if before is None:
        keep_mask = sent(call.known.begun.clone(), hidden.device)
        counts, num_visual = list(call.known.num_begun), call.known.num_visual
    else:
        keep_mask = before.keep_mask.clone()
        counts, num_visual = list(before.counts), before.num_visual
    for group in groups:
        samples, tokens, plan = group.samples, group.tokens, group.plan
        keep_mask[samples, tokens] = False
        keep_mask[samples, tokens.gather(1, plan.keep_idx)] = True
        for number in group.numbers:
            counts[number] -= plan.num_tokens - plan.num_kept
            num_visual -= plan.num_tokens - plan.num_kept
    rows = kept_rows(keep_mask, max(counts))
    places = rows
    if old is not None:
        places = torch.where(rows == PAD, PAD, columns_of(rows.clamp_min(0), old))
    left = Left(
        rows=rows,
        places=places,
        keep_mask=keep_mask,
        visual_mask=call.visual,
        counts=tuple(counts),
        num_visual=num_visual,
    )
    short = narrow_tokens(hidden, places, token_dim=-2)
    for group in groups:
        if group.plan.makes_rows:
            _put_merged(short, group, hidden, old, rows)
    return short, left


def _put_merged(
    short: Tensor, group: Group, hidden: Tensor, before: Tensor | None, after: Tensor
) -> None:
    """Give kept tokens the rows that others are merged into, in what is left of the sequence.

    Args:
        short: [B, L', D] what is left of `hidden`, written to.
        group: that merges.
        hidden: [B, L, D].
        before, after: [B, L] and [B, L'] columns of the rows of both; None for all.
    """
    samples, tokens, plan = group.samples, group.tokens, group.plan
    if before is not None:
        own = columns_of(tokens, _rows_of(before, samples))
        merged = plan.apply(hidden[samples, own])
    elif group.first is not None:  # a slice, of which only what is merged is read
        merged = plan.apply(hidden[group.numbers[0], group.first :][None, : tokens.shape[1]])
    else:
        merged = plan.apply(hidden[samples, tokens])
    slots = columns_of(tokens.gather(1, plan.keep_idx), _rows_of(after, samples))
    short[samples, slots] = merged


def _rows_of(rows: Tensor, samples: Tensor) -> Tensor:
    """The rows [G, L] of some samples [G, 1]."""
    return rows[samples[:, 0].to(rows.device)]
