"""Cross-attention from text rows to latents, between a layer's self-attention and feed-forward."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from foveate.core.decoder_shape import DecoderShape
from foveate.vist.config import FusionConfig
from foveate.vist.fusion.kv_prefix import rotate

# What is taken over from the layer's self-attention, where it has it.
_COPIED = ("q_proj", "k_proj", "v_proj")
_NORMS = ("q_norm", "k_norm")


class CrossAttention(nn.Module):
    """x + W_o attention(x, latents), with W_o = 0 at the start: step 0 is the base model.

    Source: Vist (Xing et al. 2025): W_q, W_k, W_v are initialised from the same block's
    self-attention, of W_k and W_v the first D input rows where latents are narrower. The paper is
    silent on the norms (ours: a copy of the block's input norm for the text rows, the resampler's
    own final norm for the latents), on grouped heads (ours: the block's own number), and on
    positions (ours: rotary like the self-attention's, latents at the places before the text that
    they stand for; `rotary=False` leaves it out). Its output projection is "initialised with
    norms"; zero is what makes step 0 exact.

    Args:
        width: D of the latents.
        shape: of the decoder.
        config: `rotary` is read.
        norm: norm of the text rows; becomes part of the module.
        bias: whether queries, keys and values have a bias.
        qk_norm: norm of queries per head, copied for keys; None where the family has none.
    """

    def __init__(
        self,
        width: int,
        shape: DecoderShape,
        config: FusionConfig,
        *,
        norm: nn.Module,
        bias: bool,
        qk_norm: nn.Module | None,
    ) -> None:
        super().__init__()
        self.head_dim = shape.head_dim
        self.rotary = config.rotary
        queries, keys = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
        self.norm = norm
        self.q_proj = nn.Linear(shape.hidden_size, queries, bias=bias)
        self.k_proj = nn.Linear(width, keys, bias=bias)
        self.v_proj = nn.Linear(width, keys, bias=bias)
        self.o_proj = nn.Linear(queries, shape.hidden_size, bias=False)
        self.q_norm = qk_norm if qk_norm is not None else nn.Identity()
        self.k_norm = copy.deepcopy(qk_norm) if qk_norm is not None else nn.Identity()
        nn.init.zeros_(self.o_proj.weight)

    @classmethod
    def beside(
        cls, layer: nn.Module, width: int, shape: DecoderShape, config: FusionConfig
    ) -> CrossAttention:
        """A module for decoder layer `layer`, started from its self-attention."""
        attention: Any = layer.self_attn
        input_norm: Any = layer.input_layernorm
        q_norm = getattr(attention, "q_norm", None)
        made = cls(
            width,
            shape,
            config,
            norm=_trainable(input_norm),
            bias=attention.q_proj.bias is not None,
            qk_norm=_trainable(q_norm) if q_norm is not None else None,
        )
        with torch.no_grad():
            for name in _COPIED:
                ours, theirs = getattr(made, name), getattr(attention, name)
                columns = min(ours.weight.shape[1], theirs.weight.shape[1])
                ours.weight[:, :columns] = theirs.weight[:, :columns]
                if theirs.bias is not None:
                    ours.bias.copy_(theirs.bias)
            if q_norm is not None:
                made.k_norm.load_state_dict(attention.k_norm.state_dict())
        return made

    def keys_values(self, latents: Tensor, rotary: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Keys and values of latents [B, M, D], each [B, H_kv, M, head_dim]; computed once.

        Args:
            rotary: (cos, sin) at the latents' positions, each [B, M, head_dim].
        """
        keys = self.k_norm(self._split(self.k_proj(latents))).transpose(1, 2)
        values = self._split(self.v_proj(latents)).transpose(1, 2)
        return (rotate(keys, *rotary) if self.rotary else keys), values

    def forward(
        self,
        x: Tensor,
        keys: Tensor,
        values: Tensor,
        mask: Tensor,
        rotary: tuple[Tensor, Tensor],
    ) -> Tensor:
        """What to add to x.

        Args:
            x: [B, T, hidden_size], the residual stream after the self-attention.
            keys, values: [B, H_kv, M, head_dim].
            mask: [B, M] bool, True = a latent. A row without any gets exactly zero.
            rotary: (cos, sin) at the text's positions, each [B or 1, T, head_dim].
        """
        queries = self.q_norm(self._split(self.q_proj(self.norm(x)))).transpose(1, 2)
        if self.rotary:
            queries = rotate(queries, *rotary)
        has_any = mask.any(dim=1)[:, None, None]
        opened = (mask[:, None, None] | ~has_any[:, None]).expand(-1, 1, x.shape[1], -1)
        out = F.scaled_dot_product_attention(
            queries, keys, values, attn_mask=opened, enable_gqa=True
        )
        out = self.o_proj(out.transpose(1, 2).flatten(2))  # [B, T, hidden_size]
        return out.masked_fill(~has_any, 0.0)

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], -1, self.head_dim)


def _trainable(module: nn.Module) -> nn.Module:
    made = copy.deepcopy(module)
    return made.requires_grad_(True)
