"""What a vision tower says about its patches: in which layer, and the attention they receive."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

MOST_QUERIES = 512
_MOST_LOGITS = 2**24  # 64 MB of them at a time


def last_used_layer(chosen: int | Sequence[int] | None, num_layers: int) -> int:
    """The tower layer whose output the projector takes.

    Args:
        chosen: `vision_feature_layer` of the model's configuration; None is the last.
        num_layers: of the tower, as configured.
    """
    if chosen is None:
        return num_layers - 1
    chosen = chosen if isinstance(chosen, int) else chosen[-1]
    # hidden_states[0] is the embeddings, hidden_states[i] the output of layer i - 1.
    return max(0, num_layers + chosen if chosen < 0 else chosen - 1)


def received_attention(
    query: Tensor,
    key: Tensor,
    scaling: float | None,
    has_cls: bool,
    mask: Tensor | None = None,
    *,
    most: int = MOST_QUERIES,
) -> Tensor:
    """Attention each token gets, mean over heads: of the first token, or the mean over all tokens.

    With has_cls=False in a tower that has one, the CLS token is one of the queries.

    Without a CLS token the mean is over at most `most` evenly spaced queries. The authors of the
    methods that read it average over all of them, which doubles what a tower of 16k patches costs;
    evenly spaced queries give the same mean over positions, to within their sampling error, and up
    to `most` tokens the very same.

    Args:
        query, key: [..., H, S, D].
        scaling: factor on the logits, default D ** -0.5.
        has_cls: the first token is a CLS token.
        mask: [..., 1 or H, 1 or S, S], bool (True = seen) or additive. A query that sees nothing
            gives nothing.
        most: queries.

    Returns:
        [..., S] float32.
    """
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    heads, num_tokens = query.shape[-3:-1]
    if mask is not None:
        mask = mask.expand(*mask.shape[:-2], num_tokens, mask.shape[-1])
    if has_cls:
        query, mask = query[..., :1, :], mask[..., :1, :] if mask is not None else None
    elif num_tokens > most:
        asked = torch.arange(most, device=query.device) * num_tokens // most
        asked = asked + num_tokens // (2 * most)  # the middle of each stretch
        query = query.index_select(-2, asked)
        mask = mask.index_select(-2, asked) if mask is not None else None
    keys = key.float().transpose(-1, -2)
    at_once = max(1, _MOST_LOGITS // max(1, heads * num_tokens * query.shape[:-3].numel()))
    total: Tensor | None = None
    for start in range(0, query.shape[-2], at_once):
        logits = query[..., start : start + at_once, :].float() @ keys * scale
        if mask is not None:
            rows = mask[..., start : start + at_once, :]
            is_bool = rows.dtype == torch.bool
            logits = logits.masked_fill(~rows, -torch.inf) if is_bool else logits + rows.float()
        attention = logits.softmax(dim=-1)
        if mask is not None:
            attention = attention.masked_fill(logits.amax(dim=-1, keepdim=True).isneginf(), 0.0)
        part = attention.mean(dim=-3).sum(dim=-2)
        total = part if total is None else total + part
    assert total is not None
    return total / query.shape[-2]
