"""How the places looked at stand in a memory: raw tokens beside latents, once or twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from foveate.vist.fixation.choose import thin_out
from foveate.vist.latents.memory import UNREAD, Memory, MemoryBatch

__all__ = ["Placing", "closed_up", "mixed", "read_again", "segment_of_latents"]

Placing = Literal["twice", "close", "apart"]


def segment_of_latents(memory: Memory) -> Tensor:
    """Number of the segment that each latent stands in, int64 [M]."""
    assert memory.segments is not None
    where = memory.positions.floor().long().to(memory.segments.device)
    return torch.searchsorted(memory.segments, where, right=True) - 1


def mixed(memory: Memory, chosen: list[int], budget: int) -> MemoryBatch:
    """One row: the chosen segments as raw tokens, and latents of the others where room is left.

    Args:
        memory: with tokens and segments.
        chosen: segments.
        budget: entries in all.
    """
    assert memory.tokens is not None
    assert memory.segments is not None
    device = memory.latents.device
    picked = torch.zeros(len(memory.segments), dtype=torch.bool)
    picked[chosen] = True
    starts = memory.segments.cpu()
    owner = torch.searchsorted(starts, torch.arange(memory.num_tokens), right=True) - 1
    tokens = memory.tokens.cpu()
    raw = (picked[owner] & (tokens != UNREAD)).nonzero()[:, 0]  # [R]
    free = (~picked[segment_of_latents(memory).cpu()]).nonzero()[:, 0]
    stay = free[torch.from_numpy(thin_out(len(free), budget - len(raw)))]  # [L]
    positions = torch.cat([memory.positions.cpu()[stay], raw.float()])
    ids = torch.cat([torch.full_like(stay, UNREAD), tokens[raw]])
    blank = memory.latents.new_zeros(len(raw), memory.latents.shape[1])
    latents = torch.cat([memory.latents[stay.to(device)], blank])
    order = positions.argsort(stable=True)
    if not len(order):  # nothing fits: one column that nobody sees
        return MemoryBatch(
            latents=memory.latents.new_zeros(1, 1, memory.latents.shape[1]),
            mask=torch.zeros(1, 1, dtype=torch.bool, device=device),
            positions=torch.zeros(1, 1, device=device),
            num_tokens=(memory.num_tokens,),
            tokens=torch.full((1, 1), UNREAD, device=device),
        )
    return MemoryBatch(
        latents=latents[order.to(device)][None],
        mask=torch.ones(1, len(order), dtype=torch.bool, device=device),
        positions=positions[order][None].to(device),
        num_tokens=(memory.num_tokens,),
        tokens=ids[order][None].to(device),
    )


def read_again(batch: MemoryBatch, memory: Memory, places: Sequence[int]) -> MemoryBatch:
    """One row with some segments' raw tokens once more behind it, in reading order.

    Args:
        batch: one row.
        memory: with tokens and segments.
        places: segments.
    """
    assert memory.tokens is not None
    assert memory.segments is not None
    assert batch.tokens is not None
    bounds = [*memory.segments.tolist(), memory.num_tokens]
    at = torch.tensor(
        [t for i in sorted(places) for t in range(bounds[i], bounds[i + 1])], dtype=torch.int64
    )
    at = at[memory.tokens.cpu()[at] != UNREAD].to(batch.mask.device)
    return MemoryBatch(
        latents=torch.cat(
            [batch.latents, batch.latents.new_zeros(1, len(at), batch.latents.shape[2])], dim=1
        ),
        mask=torch.cat([batch.mask, batch.mask.new_ones(1, len(at))], dim=1),
        positions=torch.cat([batch.positions, at[None].to(batch.positions)], dim=1),
        num_tokens=batch.num_tokens,
        tokens=torch.cat([batch.tokens, memory.tokens.to(at.device)[at][None]], dim=1),
    )


def closed_up(batch: MemoryBatch, span: int) -> MemoryBatch:
    """One row with its entries a position apart, the last one right before the end.

    Closer together where there are more of them than positions: none may stand before the memory.

    Args:
        batch: one row.
        span: positions that the memory takes up in the model; fewer than its tokens where the
            model's window is short.
    """
    count = batch.positions.shape[1]
    (num_tokens,) = batch.num_tokens
    back = torch.arange(count, 0, -1, device=batch.positions.device, dtype=torch.float32)
    return replace(batch, positions=num_tokens - back[None] * (num_tokens / max(span, count)))
