"""The sizes of a language model's decoder, as far as anything here depends on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from foveate.errors import InputError


@dataclass(frozen=True, kw_only=True)
class DecoderShape:
    """Sizes of a decoder: what its costs are counted from, and what trained parts must fit.

    Args:
        hidden_size: D, width of the residual stream.
        intermediate_size: width of the feed-forward block.
        num_layers: decoder layers.
        num_heads, num_kv_heads, head_dim: of its self-attention.
        embedding_rms: root mean square of its input embeddings, where latents start out.
        gated: the feed-forward block has three matrices (SwiGLU) instead of two.
    """

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    embedding_rms: float = 1.0
    gated: bool = True

    @classmethod
    def of(cls, config: Any, *, embedding_rms: float = 1.0) -> DecoderShape:
        """Read the sizes off a transformers config (of the model or its decoder), or a dict.

        Raises:
            InputError: the config lacks a size.
        """
        if hasattr(config, "get_text_config"):
            config = config.get_text_config(decoder=True)

        def read(name: str) -> int | None:
            is_dict = isinstance(config, Mapping)
            size = config.get(name) if is_dict else getattr(config, name, None)
            return None if size is None else int(size)

        def need(name: str) -> int:
            size = read(name)
            if size is None:
                raise InputError(f"the config has no {name}; use one of a decoder that names it.")
            return size

        heads, hidden = need("num_attention_heads"), need("hidden_size")
        return cls(
            hidden_size=hidden,
            intermediate_size=need("intermediate_size"),
            num_layers=need("num_hidden_layers"),
            num_heads=heads,
            num_kv_heads=read("num_key_value_heads") or heads,
            head_dim=read("head_dim") or hidden // heads,
            embedding_rms=embedding_rms,
        )
