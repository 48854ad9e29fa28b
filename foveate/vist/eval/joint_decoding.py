"""Greedy answers to several prompts, each behind its own KV cache, decoded side by side.

Each step reads the weights once for all rows; on a CPU that is nearly all that a step costs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from foveate.models.cache_argument import cache_name
from foveate.vist.eval.prefilled import Prefilled

__all__ = ["AskedRow", "ask_behind", "decode_together"]


@dataclass(frozen=True, kw_only=True)
class AskedRow:
    """A prompt that was read, right before its answer.

    Args:
        layers: keys and values of each layer, [1, H_kv, L, head_dim]; L is the same in all.
        token: first of the answer.
        position: of that token.
    """

    layers: tuple[tuple[Tensor, Tensor], ...]
    token: int
    position: int

    @property
    def length(self) -> int:
        """Entries of its cache."""
        return int(self.layers[0][0].shape[2])


@torch.no_grad()
def ask_behind(model: Any, start: Prefilled, ids: Sequence[int]) -> AskedRow:
    """Read a prompt behind a cache, which is left as it was."""
    device = model.get_input_embeddings().weight.device
    start.resume(())
    try:
        logits = model(
            torch.tensor([list(ids)], device=device),
            position_ids=torch.arange(start.base, start.base + len(ids), device=device)[None],
            logits_to_keep=1,
            **{cache_name(model): start.cache},
        ).logits
        layers = tuple((layer.keys.clone(), layer.values.clone()) for layer in start.cache.layers)
    finally:
        start.resume(())
    return AskedRow(
        layers=layers, token=int(logits[0, -1].argmax()), position=start.base + len(ids)
    )


@torch.no_grad()
def decode_together(
    model: Any,
    rows: Sequence[AskedRow],
    max_new_tokens: int,
    is_done: Callable[[Sequence[int]], bool],
) -> list[list[int]]:
    """Tokens of each row's answer, up to and with the one that ends it.

    Args:
        model: causal language model.
        rows: what was asked.
        max_new_tokens: longest answer.
        is_done: whether an answer has ended with its last token.
    """
    device = model.get_input_embeddings().weight.device
    lengths = [row.length for row in rows]
    longest = max(lengths)
    cache = DynamicCache()
    for number in range(len(rows[0].layers)):
        keys, values = (
            torch.cat([_pad_left(row.layers[number][which], longest) for row in rows])
            for which in (0, 1)
        )
        cache.update(keys, values, number)
    mask = torch.zeros(len(rows), longest, dtype=torch.long, device=device)
    for i, length in enumerate(lengths):
        mask[i, longest - length :] = 1
    said = [[row.token] for row in rows]
    positions = torch.tensor([[row.position] for row in rows], device=device)
    done = [is_done(answer) for answer in said]
    while not all(done) and len(said[0]) < max_new_tokens:
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
        logits = model(
            torch.tensor([[answer[-1]] for answer in said], device=device),
            attention_mask=mask,
            position_ids=positions,
            logits_to_keep=1,
            **{cache_name(model): cache},
        ).logits
        positions = positions + 1
        for i, token in enumerate(logits[:, -1].argmax(dim=-1).tolist()):
            said[i].append(token)
            done[i] = done[i] or is_done(said[i])
    # A row that had ended went on beside the others.
    return [_until(answer, is_done) for answer in said]


def _until(answer: list[int], is_done: Callable[[Sequence[int]], bool]) -> list[int]:
    for stop in range(1, len(answer)):
        if is_done(answer[:stop]):
            return answer[:stop]
    return answer


def _pad_left(x: Tensor, length: int) -> Tensor:
    """[1, H, L, D] -> [1, H, length, D]."""
    shape = list(x.shape)
    shape[2] = length - shape[2]
    return torch.cat([x.new_zeros(shape), x], dim=2) if shape[2] else x
