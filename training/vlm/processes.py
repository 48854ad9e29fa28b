"""Data-parallel training over a few processes of one machine (gloo, no launcher needed)."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

__all__ = ["Processes"]


class Processes:
    """``world`` processes that meet at a file in ``folder``; with ``world=1`` all is a no-op."""

    def __init__(self, folder: Path, rank: int, world: int) -> None:
        if not 0 <= rank < world:
            raise ValueError(f"rank={rank} is outside 0..{world - 1}; start ranks 0..world-1")
        self.world = world
        self.meeting_point = folder.resolve() / "meeting-point"
        if world > 1:
            dist.init_process_group(
                "gloo", init_method=f"file://{self.meeting_point}", rank=rank, world_size=world
            )

    def mean(self, value: float) -> float:
        """Average of one number over the processes (the same everywhere)."""
        if self.world == 1:
            return value
        tensor = torch.tensor(value, dtype=torch.float64)
        dist.all_reduce(tensor)
        return tensor.item() / self.world

    def share_gradients(self, model: nn.Module) -> None:
        """Replace every gradient by its average over the processes.

        A parameter without a gradient here but with one elsewhere is a bug of the caller.
        """
        if self.world == 1:
            return
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        flat = torch.cat([g.flatten() for g in gradients])
        dist.all_reduce(flat)
        flat /= self.world
        sizes = [g.numel() for g in gradients]
        for gradient, part in zip(gradients, flat.split(sizes), strict=True):
            gradient.copy_(part.view_as(gradient))

    def close(self) -> None:
        """Leave the group; the last one to leave removes the meeting point."""
        if self.world > 1:
            dist.barrier()
            dist.destroy_process_group()
            self.meeting_point.unlink(missing_ok=True)
