"""State distillation: latents take the place of the LLM's own states of the text they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from foveate.errors import ConfigError

__all__ = ["DistillationConfig", "KeyValues", "gather_states", "pair_error", "tail_divergence"]

# Layer by layer: (keys before rotation, values) or whatever else is compared, each [B, M, ...].
KeyValues = Sequence[tuple[Tensor, ...]]


@dataclass(frozen=True, kw_only=True)
class DistillationConfig:
    """What is compared.

    Args:
        space: "keys_values": what the LLM's own projections make of the states, all that its
            attention ever sees of a memory. "states": the normed layer inputs themselves.
        skip_layers: first layers that are left out (layer 0 reads embeddings only).

    Raises:
        ConfigError: a value is impossible.
    """

    space: Literal["keys_values", "states"] = "keys_values"
    skip_layers: int = 0

    def __post_init__(self) -> None:
        if self.space not in ("keys_values", "states"):
            raise ConfigError(
                f"DistillationConfig got space={self.space!r}; use keys_values or states."
            )
        if self.skip_layers < 0:
            raise ConfigError(
                f"DistillationConfig got skip_layers={self.skip_layers}; use 0 or more."
            )


def gather_states(states: Tensor, members: Tensor) -> Tensor:
    """Targets of latents: the mean of their members' states.

    Averaging states after the layer's norm keeps more than averaging before it.

    Args:
        states: [B, T, D], the teacher's normed layer inputs.
        members: int64 [B, M, K], -1 = none.

    Returns:
        [B, M, D]; zeros where a latent has no member.
    """
    held = (members >= 0).unsqueeze(-1)  # [B, M, K, 1]
    row = torch.arange(len(states), device=states.device)[:, None, None]
    picked = states[row, members.clamp_min(0)] * held  # [B, M, K, D]
    return picked.sum(dim=2) / held.sum(dim=2).clamp_min(1)


def pair_error(student: KeyValues, teacher: KeyValues, mask: Tensor) -> Tensor:
    """Mean over layers and parts of MSE(student, teacher) / variance of the teacher.

    The variance is taken over the latents of a row, per channel, then averaged: 1 is what the mean
    of the row scores. Every row counts the same, so that a batch split over processes has the same
    loss.

    Args:
        student, teacher: layer by layer, tensors [B, M, ...] each.
        mask: [B, M] bool, True = a latent.

    Returns:
        float32 [B].
    """
    errors = [
        _error(found.float(), wanted.detach().float(), mask)
        for pairs in zip(student, teacher, strict=True)
        for found, wanted in zip(*pairs, strict=True)
    ]
    return torch.stack(errors).mean(dim=0)


def _error(found: Tensor, wanted: Tensor, mask: Tensor) -> Tensor:
    found, wanted, rows = found.flatten(2), wanted.flatten(2), mask.unsqueeze(-1)
    count = rows.sum(dim=1, keepdim=True).clamp_min(1)
    mean = (wanted * rows).sum(dim=1, keepdim=True) / count
    variance = ((wanted - mean).square() * rows).sum(dim=1) / count[:, 0]  # [B, D]
    error = ((found - wanted).square() * rows).sum(dim=1) / count[:, 0]
    # A row of one latent has no variance; its error then counts as it is.
    scale = variance.mean(dim=1)
    return error.mean(dim=1) / torch.where(scale > 1e-12, scale, torch.ones_like(scale))


def tail_divergence(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """KL(teacher || student) of the next-token distributions, mean over the scored tokens.

    Source: Hinton et al. 2015 at temperature 1. The teacher is the same LLM with the raw context.

    Args:
        student_logits, teacher_logits: [B, T, V].

    Returns:
        float32 [B], nats per token.
    """
    wanted = teacher_logits.detach().float().log_softmax(dim=-1)
    found = student_logits.float().log_softmax(dim=-1)
    return (wanted.exp() * (wanted - found)).sum(dim=-1).mean(dim=-1)
