"""Losses that teach features to be read: characters per slot, and the LLM's tokens per patch."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812

__all__ = ["character_loss", "token_loss", "token_table", "token_top1"]


def character_loss(
    logits: torch.Tensor, targets: torch.Tensor, patch_mask: torch.Tensor
) -> torch.Tensor:
    """Return the cross-entropy of the characters in the slots of unmasked patches, nats per patch.

    Args:
        logits: float [P, L, S, C].
        targets: int64 [P, L, S], see `foveate.vist.encoder.labels.character_targets`.
        patch_mask: bool [P, L], at least one True.
    """
    chosen, wanted = logits[patch_mask], targets[patch_mask]
    total = F.cross_entropy(chosen.flatten(0, 1), wanted.flatten(), reduction="sum")
    return total / len(wanted)


def token_table(embeddings: torch.Tensor) -> torch.Tensor:
    """Return the directions tokens are told apart by: centred rows of unit length, [V, D]."""
    centred = embeddings - embeddings.mean(0)
    return F.normalize(centred, dim=-1)


def token_loss(
    vectors: torch.Tensor,
    targets: torch.Tensor,
    table: torch.Tensor,
    negatives: torch.Tensor,
    *,
    sharpness: float = 20.0,
) -> torch.Tensor:
    """Return InfoNCE between predicted vectors and token directions, nats per token.

    The classes are the targets of the batch and the negatives, each token once.

    Args:
        vectors: float [T, D], of any length.
        targets: int64 [T], tokens.
        table: float [V, D], see `token_table`.
        negatives: int64 [N], further tokens to tell apart; may repeat or be targets.
        sharpness: factor on cosines, 1 / temperature.
    """
    classes, place = torch.unique(torch.cat([targets, negatives]), return_inverse=True)
    cosines = F.normalize(vectors, dim=-1) @ table[classes].T
    return F.cross_entropy(sharpness * cosines, place[: len(targets)])


@torch.no_grad()
def token_top1(vectors: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """Return the nearest token of the whole vocabulary, int64 [T], for vectors [T, D]."""
    nearest = torch.empty(len(vectors), dtype=torch.int64)
    for start in range(0, len(vectors), 256):  # [256, V] at a time
        nearest[start : start + 256] = (vectors[start : start + 256] @ table.T).argmax(-1)
    return nearest
