"""The models of the cost table on the meta device: shapes run through, and FLOPs are counted."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    RobertaConfig,
    RobertaModel,
)

from foveate.core.decoder_shape import DecoderShape
from foveate.vist.config import FusionConfig, ResamplerConfig
from foveate.vist.encoder.encoder_config import TextEncoderConfig
from foveate.vist.encoder.text_encoder import TextEncoder
from foveate.vist.fusion.cross_attention import CrossAttention
from foveate.vist.latents.resampler import PerceiverResampler

__all__ = ["count_flops"]


def llama_config(shape: Any, vocabulary: int, positions: int) -> LlamaConfig:
    """A Llama of a `DecoderShape`."""
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=positions,
    )


def count_flops(shape: Any, arm: str, total: int) -> dict[str, int]:
    """FLOPs by part, by torch's counter; nothing is computed and no memory is used.

    Args:
        shape: a `CostShape`.
        arm, total: as in `pieces_of`.
    """
    far, raw = shape.split(total) if arm != "raw" else (0, total)
    parts: dict[str, int] = {}
    entries = 0
    if arm != "raw":
        pages = _text_pages(shape, far) if arm.startswith("cepe") else _image_pages(shape, arm, far)
        for tokens, count in pages:
            made = _encode(shape, arm, tokens, count)
            for name, flops in made.items():
                parts[name] = parts.get(name, 0) + flops
            entries += count * (tokens if arm == "cepe" else shape.resampler.num_latents)
        parts["cross-attention"] = _cross(shape, arm, raw, entries)
    parts["language model"] = _llm(shape.llm, shape.vocabulary, raw)
    return parts


def _text_pages(shape: Any, far: int) -> list[tuple[int, int]]:
    whole, rest = divmod(far, shape.text.tokens)
    return [(t, n) for t, n in ((shape.text.tokens, whole), (rest, 1)) if t and n]


def _image_pages(shape: Any, arm: str, far: int) -> list[tuple[int, int]]:
    patches = shape.vision.tokens - 1 if arm == "vist" else shape.reader.patches
    return [(patches, shape.images(far))]


def _encode(shape: Any, arm: str, tokens: int, count: int) -> dict[str, int]:
    """Encoder and resampler over `count` pages of `tokens` tokens or patches."""
    with torch.device("meta"):
        if arm == "vist":
            width, encoder = shape.vision.width, _vision(shape.vision)
            side = round(tokens**0.5) * shape.vision.patch
            inputs: tuple[Any, ...] = (torch.empty(count, 3, side, side),)
        elif arm == "vist-reader":
            reader: TextEncoderConfig = shape.reader
            width, encoder = reader.width, TextEncoder(reader)
            pixels = torch.empty(
                count, reader.height, reader.patches * reader.patch, dtype=torch.uint8
            )
            inputs = (pixels, torch.ones(count, tokens, dtype=torch.bool))
        else:
            width, encoder = shape.text.width, _text(shape.text)
            inputs = (torch.empty(count, tokens, dtype=torch.long),)
        parts = {"encoder": _count(encoder, *inputs)}
        if arm != "cepe":
            config = ResamplerConfig(**{**vars(shape.resampler), "input_width": width})
            mask = torch.ones(count, tokens, dtype=torch.bool)
            parts["resampler"] = _count(
                PerceiverResampler(config), torch.empty(count, tokens, width), mask
            )
    return parts


def _vision(shape: Any) -> nn.Module:
    config = CLIPVisionConfig(
        hidden_size=shape.width,
        intermediate_size=shape.mlp,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        image_size=round((shape.tokens - 1) ** 0.5) * shape.patch,
        patch_size=shape.patch,
    )
    return CLIPVisionModel._from_config(config, attn_implementation="eager")


def _text(shape: Any) -> nn.Module:
    config = RobertaConfig(
        hidden_size=shape.width,
        intermediate_size=shape.mlp,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        max_position_embeddings=514,
    )
    config._attn_implementation = "eager"
    return RobertaModel(config, add_pooling_layer=False)


def _cross(shape: Any, arm: str, raw: int, entries: int) -> int:
    width = shape.text.width if arm == "cepe" else shape.resampler.width
    llm: DecoderShape = shape.llm
    with torch.device("meta"):
        module = CrossAttention(
            width,
            llm,
            FusionConfig(form="cross_attention", rotary=False),
            norm=nn.RMSNorm(llm.hidden_size),
            bias=False,
            qk_norm=None,
        )
        nothing = torch.empty(1, 1, llm.head_dim)
        latents, text = torch.empty(1, entries, width), torch.empty(1, raw, llm.hidden_size)
        mask = torch.ones(1, entries, dtype=torch.bool)
        with FlopCounterMode(display=False) as counter:
            keys, values = module.keys_values(latents, (nothing, nothing))
            module(text, keys, values, mask, (nothing, nothing))
    return int(counter.get_total_flops()) * llm.num_layers


@functools.lru_cache(maxsize=32)
def _llm(shape: Any, vocabulary: int, tokens: int) -> int:
    config = llama_config(shape, vocabulary, max(tokens, 2048))
    with torch.device("meta"):
        model = LlamaForCausalLM._from_config(config, attn_implementation="eager")
        # A mask of its own keeps transformers from looking at values, which meta tensors lack.
        return _count(
            model,
            torch.empty(1, tokens, dtype=torch.long),
            attention_mask=torch.empty(1, 1, tokens, tokens),
            position_ids=torch.arange(tokens)[None],
            use_cache=False,
        )


@torch.no_grad()
def _count(module: nn.Module, *inputs: Any, **options: Any) -> int:
    with FlopCounterMode(display=False) as counter:
        module.eval()(*inputs, **options)
    return int(counter.get_total_flops())
