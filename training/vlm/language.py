"""The language model (Llama's architecture) in plain torch, reading packed questions.

One image and many questions share one pass: the visual tokens are computed once, every question
sees them and itself, and its positions continue after the image as if it were alone. So packed
training equals ordinary causal attention over "USER: <image> question ASSISTANT: answer".
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from training.vlm.codes import WIDTH
from training.vlm.vocabulary import BEGIN, VOCABULARY

__all__ = ["LANGUAGE_CONFIG", "LanguageModel", "PackedPositions"]

LANGUAGE_CONFIG: dict[str, Any] = {
    "hidden_size": WIDTH,
    "intermediate_size": 512,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e6,
    "max_position_embeddings": 1024,
    "vocab_size": len(VOCABULARY),
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
}
_BEGIN_ID = VOCABULARY.index(BEGIN)


class PackedPositions:
    """Rotary tables for 1 + V visual positions and Q questions of L tokens each."""

    def __init__(self, num_visual: int, num_questions: int, length: int) -> None:
        self.num_visual, self.num_questions, self.length = num_visual, num_questions, length
        first = torch.arange(1 + num_visual)
        own = torch.arange(length) + 1 + num_visual
        positions = torch.cat([first, own.repeat(num_questions)]).float()
        half = LANGUAGE_CONFIG["head_dim"] // 2
        rates = LANGUAGE_CONFIG["rope_theta"] ** -(torch.arange(half) / half)
        angles = positions[:, None] * rates  # [T, 32]
        self.cos = torch.cat([angles.cos(), angles.cos()], -1)
        self.sin = torch.cat([-angles.sin(), angles.sin()], -1)  # sign of rotate-half built in
        self.causal = torch.full((length, length), float("-inf")).triu(1)

    def rotate(self, x: torch.Tensor) -> torch.Tensor:
        """Rotate queries or keys, [B, H, T, 64], by their positions (T from the front)."""
        length = x.shape[2]
        return x * self.cos[:length] + x.roll(x.shape[-1] // 2, -1) * self.sin[:length]


class RMSNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.weight, LANGUAGE_CONFIG["rms_norm_eps"])


class Attention(nn.Module):
    q_proj: nn.Linear
    k_proj: nn.Linear
    v_proj: nn.Linear

    def __init__(self) -> None:
        super().__init__()
        inner = LANGUAGE_CONFIG["num_attention_heads"] * LANGUAGE_CONFIG["head_dim"]
        for name in ("q_proj", "k_proj", "v_proj"):
            setattr(self, name, nn.Linear(WIDTH, inner, bias=False))
        self.o_proj = nn.Linear(inner, WIDTH, bias=False)

    def forward(
        self, x: torch.Tensor, packed: PackedPositions, bias: float, last: bool
    ) -> torch.Tensor:
        """Attend; ``bias`` shifts question-to-image logits, ``last`` returns questions only."""
        batch = len(x)

        def split(projection: nn.Linear, of: torch.Tensor) -> torch.Tensor:
            out = projection(of)
            return out.view(batch, of.shape[1], -1, LANGUAGE_CONFIG["head_dim"]).transpose(1, 2)

        seen = 1 + packed.num_visual
        query = packed.rotate(split(self.q_proj, x))
        key, value = packed.rotate(split(self.k_proj, x)), split(self.v_proj, x)
        parts = []
        if not last:
            parts.append(
                F.scaled_dot_product_attention(
                    query[:, :, :seen], key[:, :, :seen], value[:, :, :seen], is_causal=True
                )
            )
        shown = 1 if bias == float("-inf") else seen
        shape = (batch, query.shape[1], packed.num_questions, packed.length, query.shape[-1])
        asked = query[:, :, seen:] * query.shape[-1] ** -0.5
        own_key, own_value = key[:, :, seen:].reshape(shape), value[:, :, seen:].reshape(shape)
        to_image = asked @ key[:, :, :shown].transpose(2, 3)  # [B, H, QL, shown]
        if bias and shown > 1:
            shade = torch.full((shown,), bias)
            shade[0] = 0.0  # the prefix is text
            to_image = to_image + shade
        to_own = asked.reshape(shape) @ own_key.transpose(3, 4) + packed.causal
        weights = torch.cat([to_image, to_own.flatten(2, 3)], -1).softmax(-1)
        own = weights[..., shown:].reshape(*shape[:4], packed.length) @ own_value
        parts.append(weights[..., :shown] @ value[:, :, :shown] + own.flatten(2, 3))
        out = torch.cat(parts, 2) if len(parts) > 1 else parts[0]
        return self.o_proj(out.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        inner = LANGUAGE_CONFIG["intermediate_size"]
        self.gate_proj = nn.Linear(WIDTH, inner, bias=False)
        self.up_proj = nn.Linear(WIDTH, inner, bias=False)
        self.down_proj = nn.Linear(inner, WIDTH, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.self_attn, self.mlp = Attention(), Mlp()
        self.input_layernorm, self.post_attention_layernorm = RMSNorm(WIDTH), RMSNorm(WIDTH)

    def forward(
        self, x: torch.Tensor, packed: PackedPositions, bias: float, last: bool
    ) -> torch.Tensor:
        attended = self.self_attn(self.input_layernorm(x), packed, bias, last)
        x = (x[:, 1 + packed.num_visual :] if last else x) + attended
        return x + self.mlp(self.post_attention_layernorm(x))


class LanguageModel(nn.Module):
    """Llama decoder with 8 layers of width 192."""

    def __init__(self) -> None:
        super().__init__()
        self.model: Any = nn.Module()
        self.model.embed_tokens = nn.Embedding(len(VOCABULARY), WIDTH)
        self.model.layers = nn.ModuleList(
            Layer() for _ in range(LANGUAGE_CONFIG["num_hidden_layers"])
        )
        self.model.norm = RMSNorm(WIDTH)
        self.lm_head = nn.Linear(WIDTH, len(VOCABULARY), bias=False)

    def forward(
        self,
        visual: torch.Tensor,
        questions: torch.Tensor,
        *,
        blind_layers: int = 0,
        bias: float = float("-inf"),
    ) -> torch.Tensor:
        """Final hidden states of the question tokens.

        Args:
            visual: visual tokens [B, V, 192].
            questions: token ids [B, Q, L], padded on the right (V, Q, L >= 1).
            blind_layers: in this many first layers ``bias`` is added to the attention logits from
                questions to visual tokens; -inf hides them. A training scaffold: the shipped
                model is trained and used without.
            bias: see ``blind_layers``.

        Returns:
            [B, Q, L, 192]; ``lm_head`` of it gives the logits of the next token.
        """
        batch, num_questions, length = questions.shape
        packed = PackedPositions(visual.shape[1], num_questions, length)
        begin = self.model.embed_tokens.weight[_BEGIN_ID].expand(batch, 1, -1)
        x = torch.cat([begin, visual, self.model.embed_tokens(questions.flatten(1))], 1)
        for depth, layer in enumerate(self.model.layers):
            last = depth == len(self.model.layers) - 1
            x = layer(x, packed, bias if depth < blind_layers else 0.0, last)
        return self.model.norm(x).view(batch, num_questions, length, WIDTH)
