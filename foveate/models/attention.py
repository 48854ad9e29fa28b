"""Some rows of attention, read from q and k inside any attention kernel.

Asking a model for its attention maps forces the eager kernel and an S x S matrix in every layer.
Here one layer's attention module is given a copy of its config that names a function registered
with transformers; that function computes the rows asked for (the last prompt token's, the text
tokens') and hands over to the kernel the model was using.
"""

from __future__ import annotations

import copy
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from foveate.core.layout import PAD

PROBED = "foveate_probed"
_CHUNK = 64  # rows computed at a time: [B, H, 64, L] is all that ever exists of the map
_PLACE = "_foveate_probe"  # the module itself holds its probe, so that both are freed together


class Probe(ABC):
    """Looks at q and k of one attention module, which goes on with the kernel it was using.

    Attributes:
        module: the attention module.
        wants: whether the next call is to be read.
    """

    wants = True

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.original = module.config
        stand_in = copy.copy(self.original)
        # The private field, because the property's setter also rewrites nested configs.
        stand_in._attn_implementation_internal = PROBED
        self.stand_in = stand_in
        module.config = stand_in
        module.__dict__[_PLACE] = self
        ALL_ATTENTION_FUNCTIONS.register(PROBED, probed_attention)

    @abstractmethod
    def read(self, query: Tensor, key: Tensor, mask: Any, **settings: Any) -> None:
        """Called with q [B, H, Q, D], k [B, H_kv, L, D], the mask and the kernel's keywords."""

    def remove(self) -> None:
        self.module.config = self.original
        self.module.__dict__.pop(_PLACE, None)

    @property
    def kernel(self) -> str:
        """Name of the attention implementation the model uses itself."""
        return str(self.original._attn_implementation)


class RowRecorder(Probe):
    """Reads attention rows of one decoder layer while some are wanted.

    Attributes:
        wanted: [B] column of the query among the new tokens, whose row is kept for each head.
        wanted_text: [B, T] columns whose rows are kept as means over heads; PAD for none.
        row: [B, H, new tokens] float32.
        text_rows: [B, T, new tokens] float32; zero where there was none.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module)
        self.forget()

    def forget(self) -> None:
        """Drop what was read and what was asked for."""
        self.wanted: Tensor | None = None
        self.wanted_text: Tensor | None = None
        self.row: Tensor | None = None
        self.text_rows: Tensor | None = None

    @property
    def wants(self) -> bool:  # type: ignore[override]
        return self.wanted is not None or self.wanted_text is not None

    def read(self, query: Tensor, key: Tensor, mask: Any, **settings: Any) -> None:
        of_logits = {k: settings.get(k) for k in ("scaling", "sliding_window", "softcap")}
        if self.wanted is not None:
            rows = attention_rows(query, key, mask, self.wanted[:, None], **of_logits)
            self.row = rows[:, :, 0]
        if self.wanted_text is not None:
            parts = [
                attention_rows(query, key, mask, part, **of_logits).mean(dim=1)
                for part in self.wanted_text.split(_CHUNK, dim=1)
            ]
            rows = torch.cat(parts, dim=1)
            empty = (self.wanted_text == PAD).to(rows.device)
            self.text_rows = rows.masked_fill(empty.unsqueeze(-1), 0.0)
        self.wanted = self.wanted_text = None


def probed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    *args: Any,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Let the module's probe read what it wants, then run the model's own kernel unchanged."""
    probe: Probe = module.__dict__[_PLACE]
    if probe.wants:
        with torch.no_grad():
            probe.read(query, key, attention_mask, **kwargs)
    eager: Callable[..., Any] = sys.modules[type(module).__module__].eager_attention_forward
    kernel = ALL_ATTENTION_FUNCTIONS.get_interface(probe.kernel, eager)
    module.config = probe.original  # kernels look their own name up in the config
    try:
        output: tuple[Tensor, Tensor | None] = kernel(
            module, query, key, value, attention_mask, *args, **kwargs
        )
    finally:
        module.config = probe.stand_in
    return output


def attention_rows(
    query: Tensor,
    key: Tensor,
    attention_mask: Any,
    wanted: Tensor,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Softmax attention of the queries `wanted` over all keys, restricted to the new tokens.

    Args:
        query: [B, H, Q, D] after rotary embedding.
        key: [B, H_kv, L, D], the Q new keys last; grouped heads are expanded.
        attention_mask: None (causal), 2-D [B, L] (flash), or 4-D [B, 1 or H, Q, L] bool or
            additive.
        wanted: [B, T] indices of queries among the Q; PAD gives a row without meaning.
        scaling: factor on the logits, default D ** -0.5.
        sliding_window: keys further back than this are masked where the mask is not 4-D.
        softcap: cap * tanh(logits / cap), if the model has it.

    Returns:
        [B, H, T, Q] float32, the part of each row that falls on the new tokens. Sums to at most 1.
    """
    batch, heads, num_queries, dim = query.shape
    num_keys, num_rows = key.shape[2], wanted.shape[1]
    wanted = wanted.to(query.device).clamp_min(0)
    index = wanted[:, None, :, None].expand(-1, heads, -1, dim)
    chosen = query.gather(2, index).float()  # [B, H, T, D]
    grouped = chosen.reshape(batch, key.shape[1], -1, dim)  # [B, H_kv, group * T, D]
    logits = (grouped @ key.float().transpose(-1, -2)).view(batch, heads, num_rows, num_keys)
    logits = logits * (scaling if scaling is not None else dim**-0.5)
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    if isinstance(attention_mask, Tensor) and attention_mask.ndim == 4:
        mask = attention_mask.expand(batch, -1, -1, -1)[..., :num_keys]
        rows = wanted[:, None, :, None].expand(-1, mask.shape[1], -1, num_keys)
        mask = mask.gather(2, rows)  # [B, 1 or H, T, L]
        if mask.dtype == torch.bool:
            logits = logits.masked_fill(~mask, float("-inf"))
        else:
            logits = logits + mask.float()
    else:
        place = torch.arange(num_keys, device=query.device)
        own = wanted[..., None] + (num_keys - num_queries)  # [B, T, 1]
        seen = place <= own
        if sliding_window is not None:
            seen &= place > own - sliding_window
        if isinstance(attention_mask, Tensor):
            seen &= attention_mask.bool()[:, None]
        logits = logits.masked_fill(~seen[:, None], float("-inf"))
    return logits.softmax(dim=-1)[..., num_keys - num_queries :]
