"""One row of attention: the last prompt token's, read from q and k inside any attention kernel.

Asking a model for its attention maps forces the eager kernel and an S x S matrix in every layer.
Here one layer's attention module is given a copy of its config that names a function registered
with transformers; that function computes the single row and hands over to the kernel the model was
using.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

LAST_ROW = "foveate_last_row"
_recorders: WeakKeyDictionary[nn.Module, RowRecorder] = WeakKeyDictionary()


class RowRecorder:
    """Reads attention rows of one attention module while `wanted` is set."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.original = module.config
        self.wanted: Tensor | None = None  # [B] column of the query among the new tokens
        self.row: Tensor | None = None  # [B, H, new tokens] float32
        stand_in = copy.copy(self.original)
        # The private field, because the property's setter also rewrites nested configs.
        stand_in._attn_implementation_internal = LAST_ROW
        self.stand_in = stand_in
        module.config = stand_in
        _recorders[module] = self
        ALL_ATTENTION_FUNCTIONS.register(LAST_ROW, last_row_attention)

    def remove(self) -> None:
        self.module.config = self.original
        _recorders.pop(self.module, None)

    @property
    def kernel(self) -> str:
        """Name of the attention implementation the model uses itself."""
        return str(self.original._attn_implementation)


def last_row_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    *args: Any,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Record one attention row if asked to, then run the model's own kernel unchanged."""
    recorder = _recorders[module]
    if recorder.wanted is not None:
        with torch.no_grad():
            recorder.row = attention_row(
                query,
                key,
                attention_mask,
                recorder.wanted,
                scaling=kwargs.get("scaling"),
                sliding_window=kwargs.get("sliding_window"),
                softcap=kwargs.get("softcap"),
            )
        recorder.wanted = None
    eager: Callable[..., Any] = sys.modules[type(module).__module__].eager_attention_forward
    kernel = ALL_ATTENTION_FUNCTIONS.get_interface(recorder.kernel, eager)
    module.config = recorder.original  # kernels look their own name up in the config
    try:
        output: tuple[Tensor, Tensor | None] = kernel(
            module, query, key, value, attention_mask, *args, **kwargs
        )
    finally:
        module.config = recorder.stand_in
    return output


def attention_row(
    query: Tensor,
    key: Tensor,
    attention_mask: Any,
    wanted: Tensor,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Softmax attention of query `wanted` over all keys, restricted to the new tokens.

    Args:
        query: [B, H, Q, D] after rotary embedding.
        key: [B, H_kv, L, D], the Q new keys last; grouped heads are expanded.
        attention_mask: None (causal), 2-D [B, L] (flash), or 4-D [B, 1 or H, Q, L] bool or
        additive.
        wanted: [B] index of the query among the Q.
        scaling: factor on the logits, default D ** -0.5.
        sliding_window: keys further back than this are masked where the mask is not 4-D.
        softcap: cap * tanh(logits / cap), if the model has it.

    Returns:
        [B, H, Q] float32, the part of the row that falls on the new tokens. Sums to at most 1.
    """
    batch, heads, num_queries, dim = query.shape
    num_keys = key.shape[2]
    wanted = wanted.to(query.device)
    chosen = query[torch.arange(batch, device=query.device), :, wanted].float()  # [B, H, D]
    grouped = chosen.view(batch, key.shape[1], -1, dim)  # [B, H_kv, group, D]
    logits = (grouped @ key.float().transpose(-1, -2)).view(batch, heads, num_keys)
    logits = logits * (scaling if scaling is not None else dim**-0.5)
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    if isinstance(attention_mask, Tensor) and attention_mask.ndim == 4:
        mask = attention_mask.expand(batch, -1, -1, -1)
        rows = wanted[:, None, None, None].expand(-1, mask.shape[1], 1, num_keys)
        mask = mask[..., :num_keys].gather(2, rows).squeeze(2)  # [B, 1 or H, L]
        if mask.dtype == torch.bool:
            logits = logits.masked_fill(~mask, float("-inf"))
        else:
            logits = logits + mask.float()
    else:
        place = torch.arange(num_keys, device=query.device)
        own = wanted[:, None] + (num_keys - num_queries)
        seen = place <= own
        if sliding_window is not None:
            seen &= place > own - sliding_window
        if isinstance(attention_mask, Tensor):
            seen &= attention_mask.bool()
        logits = logits.masked_fill(~seen[:, None], float("-inf"))
    return logits.softmax(dim=-1)[..., num_keys - num_queries :]
