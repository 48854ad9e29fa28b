"""Run rows through some layers of a decoder, after rows whose keys and values are held."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from foveate.errors import UnsupportedModelError
from foveate.models.anatomy import Anatomy

__all__ = ["HeldKeys", "check_layers", "run_layers"]


class HeldKeys:
    """Keys and values layer by layer, in the place of a KV cache; differentiable.

    Args:
        held: layer -> two of [B, H_kv, M, head_dim], rotated; where rows of other layers are added,
            those layers begin empty.
    """

    def __init__(self, held: dict[int, tuple[Tensor, Tensor]] | None = None) -> None:
        self.held = dict(held or {})

    def update(
        self, keys: Tensor, values: Tensor, layer: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Add rows to a layer, as an attention module does; returns all of that layer's."""
        if layer in self.held:
            before = self.held[layer]
            keys = torch.cat([before[0].to(keys), keys], dim=2)
            values = torch.cat([before[1].to(values), values], dim=2)
        self.held[layer] = (keys, values)
        return keys, values

    def rows(self, first: int) -> dict[int, tuple[Tensor, Tensor]]:
        """Layer -> keys and values of all rows but the first ones."""
        return {layer: (k[:, :, first:], v[:, :, first:]) for layer, (k, v) in self.held.items()}


def check_layers(anatomy: Anatomy, num_tokens: int) -> None:
    """Refuse a decoder whose layers would not see all of a document.

    Raises:
        UnsupportedModelError: a layer's window is shorter than the document.
    """
    config = anatomy.text_config
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None) or ("full_attention",)
    is_sliding = getattr(config, "model_type", "") == "mistral" or "sliding_attention" in kinds
    if window and is_sliding and num_tokens > window:
        raise UnsupportedModelError(
            f"the document has {num_tokens} tokens and layers of this model see the last {window} "
            "only, so that no states of all tokens can be kept; use form='latents'."
        )


def run_layers(
    anatomy: Anatomy,
    hidden: Tensor,
    positions: Tensor,
    held: HeldKeys,
    layers: Iterable[int],
    seen: Tensor,
) -> Tensor:
    """The residual stream behind some layers.

    Args:
        anatomy: of the decoder.
        hidden: [B, R, hidden_size], the stream before the first of them.
        positions: [B, R] float or int, of the rows.
        held: what earlier rows left; takes in these rows' keys and values.
        layers: which, ascending.
        seen: [B, M + R] bool, which of the held rows and of these are real. A row sees the real
            ones before it in this order, and itself.

    Returns:
        [B, R, hidden_size].
    """
    num_rows, num_columns = hidden.shape[1], seen.shape[1]
    first = num_columns - num_rows
    place = torch.arange(num_columns, device=hidden.device)
    row = place[first:, None]
    mask = (seen[:, None] & (place <= row)) | (place == row)  # [B, R, M + R]
    mask = mask[:, None]
    if str(anatomy.text_config._attn_implementation) != "sdpa":
        lowest = torch.finfo(hidden.dtype).min
        mask = torch.zeros_like(mask, dtype=hidden.dtype).masked_fill(~mask, lowest)
    base: Any = anatomy.base
    rotary = base.rotary_emb(hidden, positions)
    for index in layers:
        hidden = anatomy.layers[index](
            hidden,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=held,
            use_cache=True,
            position_embeddings=rotary,
        )
    return hidden
