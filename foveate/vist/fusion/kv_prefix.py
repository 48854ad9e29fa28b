"""Latents as a KV prefix: the maps from latents to what the LLM's own attention reads."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from foveate.core.decoder_shape import DecoderShape
from foveate.errors import ConfigError
from foveate.vist.config import FusionConfig


class EmbeddingPrefix(nn.Module):
    """Latents as input embeddings: they run through the LLM, and their KV is the prefix.

    The latents of the whole document come after the head text, in reading order, each at its own
    position; a latent sees the head and the latents before it.

    Args:
        width: D of the latents.
        shape: of the decoder.
        config: lora_rank, lora_scale and projection are read.

    Raises:
        ConfigError: projection="none" with latents of another width than the LLM's embeddings.
    """

    def __init__(self, width: int, shape: DecoderShape, config: FusionConfig) -> None:
        super().__init__()
        self.norm: nn.Module = nn.Identity()
        self.project: nn.Module = nn.Identity()
        if config.projection == "linear":
            self.norm = nn.LayerNorm(width)
            project = nn.Linear(width, shape.hidden_size)
            # Start at the size of real embeddings: the LLM has never seen others.
            nn.init.normal_(project.weight, std=shape.embedding_rms * width**-0.5)
            nn.init.zeros_(project.bias)
            self.project = project
        elif width != shape.hidden_size:
            raise ConfigError(
                f"projection='none' takes latents as input embeddings, but they have width {width} "
                f"and the LLM's {shape.hidden_size}; set the resampler's width to that, or use "
                "projection='linear'."
            )
        self.lora = Lora(shape, config.lora_rank, config.lora_scale) if config.lora_rank else None

    def forward(self, latents: Tensor) -> Tensor:
        """[..., D] -> input embeddings [..., hidden_size]."""
        return self.project(self.norm(latents))


class StatePrefix(nn.Module):
    """One linear map a layer predicts that layer's normed input states S_l; no row runs the LLM.

    Keys and values come from the LLM's own projections of S_l. Training targets are the LLM's own
    normed layer inputs for the text a latent stands for.

    Args:
        width: D of the latents.
        shape: of the decoder.
    """

    def __init__(self, width: int, shape: DecoderShape) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.heads = nn.ModuleList(
            nn.Linear(width, shape.hidden_size) for _ in range(shape.num_layers)
        )

    def forward(self, latents: Tensor) -> list[Tensor]:
        """[..., D] -> S_l [..., hidden_size] of every layer."""
        x = self.norm(latents)
        return [head(x) for head in self.heads]


class Lora(nn.Module):
    """Low-rank additions to the linear maps of a decoder, kept outside of it.

    Source: Hu et al. 2021. They act on latent rows only: the caller adds `delta` where those run.

    Args:
        shape: of the decoder.
        rank: of the additions.
        scale: factor on them.
        first_layer: layers before it have none.

    Attributes:
        targets: (layer, name of the linear map within it) of every map with an addition.
    """

    def __init__(self, shape: DecoderShape, rank: int, scale: float, first_layer: int = 0) -> None:
        super().__init__()
        self.scale = scale
        queries, keys = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
        hidden, wide = shape.hidden_size, shape.intermediate_size
        sizes = {
            "self_attn.q_proj": (hidden, queries),
            "self_attn.k_proj": (hidden, keys),
            "self_attn.v_proj": (hidden, keys),
            "self_attn.o_proj": (queries, hidden),
            "mlp.gate_proj": (hidden, wide),
            "mlp.up_proj": (hidden, wide),
            "mlp.down_proj": (wide, hidden),
        }
        # Of the last layer only keys and values are ever read.
        last = ("self_attn.k_proj", "self_attn.v_proj")
        self.targets = tuple(
            (layer, target)
            for layer in range(first_layer, shape.num_layers)
            for target in sizes
            if layer < shape.num_layers - 1 or target in last
        )
        self.down = nn.ParameterDict()
        self.up = nn.ParameterDict()
        for layer, target in self.targets:
            num_in, num_out = sizes[target]
            key = _key(layer, target)
            self.down[key] = nn.Parameter(torch.randn(rank, num_in) * num_in**-0.5)
            self.up[key] = nn.Parameter(torch.zeros(num_out, rank))

    def delta(self, layer: int, target: str, x: Tensor) -> Tensor:
        """What to add to the output of linear map `target` of `layer` for input x [..., in]."""
        key = _key(layer, target)
        x = x.to(self.down[key].dtype)
        return self.scale * (x @ self.down[key].T @ self.up[key].T)


def _key(layer: int, target: str) -> str:
    return f"{layer}_{target.replace('.', '_')}"


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding in half-split layout (Su et al. 2021).

    Args:
        x: [B, H, T, d].
        cos, sin: [B or 1, T, d].
    """
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin
