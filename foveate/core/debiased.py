"""Attention without what a token's place gives it: calibrated attention (Hsieh et al. 2024)."""

from __future__ import annotations

import torch
from torch import Tensor


def calibrated(
    attention: Tensor, of_dummies: Tensor, is_dummy: Tensor, sizes: Tensor | None = None
) -> Tensor:
    """What each key gets beyond what one without content would get at its place.

    "Found in the Middle" (arXiv:2406.16008, section 3) reads relevance off attention as

        rel(x) = Attn(x, k) - Attn(x_dummy, k), up to a constant,

    the dummy standing at the same place k of the same prompt. `of_dummies` has dummies at all
    places at once; with logits l and l' before the two softmaxes Z and Z', what a single one would
    get beside the others as they are follows from the keys that are the same in both rows,

        r_i = exp(l'_i) / Z = of_dummies_i sum(attention) / sum(of_dummies) over these,
        Attn(x_dummy, i) = r_i / (1 - attention_i + r_i).

    Args:
        attention: [B, H, L] softmax attention of a query.
        of_dummies: the same with dummies in the place of some keys; at least one key that the query
            sees, such as its own, is the same in both.
        is_dummy: [B, L] bool, those keys.
        sizes: [B, L], how often each key counts in `attention`; None for once.

    Returns:
        [B, H, L] float32; keys that are no dummies get 0, keys that the query does not see too.
    """
    attention, of_dummies = attention.float(), of_dummies.float()
    is_seen = attention > 0
    same = is_seen & ~is_dummy[:, None]
    least = torch.finfo(torch.float32).tiny
    factor = (attention * same).sum(dim=-1) / (of_dummies * same).sum(dim=-1).clamp_min(least)
    alone = of_dummies * factor.unsqueeze(-1)
    if sizes is not None:
        alone = alone * sizes.unsqueeze(1)
    bias = alone / (1 - attention + alone).clamp_min(least)
    return torch.where(is_seen & is_dummy[:, None], attention - bias, 0.0)
