"""What a vision tower says about its patches: in which layer, and the attention they receive."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_CHUNK = 256  # queries at a time: no N x N map of a whole image is ever held


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
) -> Tensor:
    """Attention each token gets, mean over heads: of the first token, or the mean over all tokens.

    With has_cls=False in a tower that has one, the CLS token is one of the queries.

    Args:
        query, key: [H, S, D].
        scaling: factor on the logits, default D ** -0.5.
        has_cls: the first token is a CLS token.
        mask: [1 or H, Q, S], bool (True = seen) or additive.

    Returns:
        [S] float32.
    """
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    queries = query[:, :1] if has_cls else query
    total = torch.zeros(key.shape[1], device=key.device)
    for start, part in enumerate(torch.split(queries.float(), _CHUNK, dim=1)):
        logits = part @ key.float().transpose(-1, -2) * scale
        if mask is not None:
            rows = mask[:, start * _CHUNK : start * _CHUNK + part.shape[1]]
            is_bool = rows.dtype == torch.bool
            logits = logits.masked_fill(~rows, -torch.inf) if is_bool else logits + rows.float()
        total = total + logits.softmax(dim=-1).mean(dim=0).sum(dim=0)
    return total / queries.shape[1]
