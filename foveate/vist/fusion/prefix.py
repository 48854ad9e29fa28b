"""Compute what a decoder reads of a memory: keys and values, in both forms, once per memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from foveate.core.decoder_shape import DecoderShape
from foveate.errors import UnsupportedModeError, UnsupportedModelError
from foveate.models.anatomy import Anatomy
from foveate.models.cache_argument import cache_name
from foveate.models.families import TEXT_DECODER
from foveate.vist.fusion.fusion import Fusion, PrefixCache
from foveate.vist.fusion.kv_prefix import EmbeddingPrefix, StatePrefix, rotate
from foveate.vist.fusion.lora_hooks import lora_on
from foveate.vist.latents.memory import MemoryBatch

# model_type: self_attn, mlp, input_layernorm and half-split rotary embeddings as in Llama.
FUSABLE = ("llama", "mistral", "qwen2", "qwen3", "smollm3")

# Entries run through the decoder at a time, without gradients: bounds masks and activations.
ENTRIES_AT_A_TIME = 1024


def decoder_of(model: nn.Module) -> Anatomy:
    """The parts of a language model that can read memories.

    Args:
        model: a transformers causal language model (a PEFT wrapper is looked through).

    Raises:
        UnsupportedModelError: for any other model; names the families.
        UnsupportedModeError: it is compiled.
    """
    if hasattr(model, "get_base_model"):
        model = model.get_base_model()
    # By name: importing torch._dynamo to ask takes seconds.
    if type(model).__name__ == "OptimizedModule":
        raise UnsupportedModeError(
            "a torch.compile'd model cannot be hooked; pass the model itself, uncompiled."
        )
    config: Any = getattr(model, "config", None)
    kind = getattr(config, "model_type", None)
    if kind not in FUSABLE or not hasattr(model, "lm_head"):
        raise UnsupportedModelError(
            f"{type(model).__name__} (model_type {kind!r}) cannot read memories; use a causal "
            f"language model of type {', '.join(FUSABLE)} (SmolLM is a llama)."
        )
    base: Any = model.base_model
    return Anatomy(TEXT_DECODER, config, model, base, base)


def decoder_shape(anatomy: Anatomy) -> DecoderShape:
    """Sizes of the decoder, and of its input embeddings."""
    weight = anatomy.base.get_input_embeddings().weight
    # A few thousand rows tell the size; a big vocabulary in half precision would overflow a sum.
    rms = weight[:4096].detach().float().pow(2).mean().sqrt().item()
    return DecoderShape.of(anatomy.config, embedding_rms=rms)


def compute_prefix(
    anatomy: Anatomy,
    fusion: Fusion,
    batch: MemoryBatch,
    spans: Sequence[int],
    head: Tensor,
    head_mask: Tensor,
) -> PrefixCache:
    """Keys and values of memories; differentiable in the latents and the fusion's weights.

    Args:
        anatomy: of the decoder.
        fusion: trained modules.
        batch: B memories.
        spans: B positions each memory takes up; positions shrink linearly where they are fewer than
            its tokens.
        head: [B, H, hidden_size] input embeddings of the text before each memory. Left unread in
            the cross-attention form, where memories come before all text.
        head_mask: [B, H] bool, padding on the left.

    Raises:
        UnsupportedModeError: raw tokens among the latents, in a form that does not run them.
    """
    if batch.tokens is not None and not isinstance(fusion.prefix, EmbeddingPrefix):
        raise UnsupportedModeError(
            f"form={fusion.config.form!r}, source={fusion.config.source!r} has no place for raw "
            "tokens among its latents; use a Vist of form 'kv_prefix' with source 'embeddings', or "
            "attach the memory without fixate."
        )
    device = batch.mask.device
    tokens = torch.tensor([max(1, n) for n in batch.num_tokens], device=device)
    scale = torch.tensor(list(spans), device=device) / tokens
    positions = batch.positions * scale[:, None]  # [B, M]
    if fusion.prefix is None:
        counts = [0] * batch.num_rows
        positions = positions - torch.tensor(list(spans), device=device)[:, None]
        kv = _cross(anatomy, fusion, batch, positions)
    else:
        counts = head_mask.sum(dim=1).tolist()
        positions = positions + head_mask.sum(dim=1, keepdim=True)
        if isinstance(fusion.prefix, StatePrefix):
            kv = _from_states(anatomy, fusion.prefix, batch.latents, positions)
        else:
            kv = _from_embeddings(anatomy, fusion.prefix, batch, positions, head, head_mask)
    return PrefixCache(
        keys={layer: k for layer, (k, _) in kv.items()},
        values={layer: v for layer, (_, v) in kv.items()},
        mask=batch.mask,
        memory_at=tuple(int(n) for n in counts),
        spans=tuple(int(n) for n in spans),
        num_tokens=batch.num_tokens,
    )


_KeysValues = dict[int, tuple[Tensor, Tensor]]


def _cross(anatomy: Anatomy, fusion: Fusion, batch: MemoryBatch, positions: Tensor) -> _KeysValues:
    rotary = anatomy.base.rotary_emb(batch.latents, positions)
    return {int(i): module.keys_values(batch.latents, rotary) for i, module in fusion.cross.items()}


def _from_states(
    anatomy: Anatomy, prefix: StatePrefix, latents: Tensor, positions: Tensor
) -> _KeysValues:
    """The LLM's own projections of the predicted normed inputs of each layer."""
    kv: _KeysValues = {}
    rotary = None
    for i, (layer, states) in enumerate(zip(anatomy.layers, prefix(latents), strict=True)):
        if rotary is None:
            rotary = anatomy.base.rotary_emb(states, positions)
        keys, values = project_states(layer, states)
        # SmolLM3 leaves some layers unrotated.
        is_rotated = getattr(layer.self_attn, "use_rope", True)
        kv[i] = (rotate(keys, *rotary) if is_rotated else keys, values)
    return kv


def project_states(layer: nn.Module, states: Tensor) -> tuple[Tensor, Tensor]:
    """Keys before rotation and values that a layer makes of normed inputs.

    Args:
        layer: of the decoder.
        states: [B, M, hidden_size].

    Returns:
        two of [B, H_kv, M, head_dim].
    """
    attention = layer.self_attn
    states = states.to(layer.input_layernorm.weight.dtype)
    split = (*states.shape[:2], -1, attention.head_dim)
    keys = attention.k_proj(states).view(split)
    if hasattr(attention, "k_norm"):
        keys = attention.k_norm(keys)
    return keys.transpose(1, 2), attention.v_proj(states).view(split).transpose(1, 2)


def _from_embeddings(
    anatomy: Anatomy,
    prefix: EmbeddingPrefix,
    batch: MemoryBatch,
    positions: Tensor,
    head: Tensor,
    head_mask: Tensor,
) -> _KeysValues:
    """Run the latents through the LLM after the head; their keys and values.

    Raw tokens among them are the LLM's own input: the LoRA, which reads latents, leaves them alone.
    """
    base = anatomy.base
    # Without a config its layers are never sliding ones: nothing is trimmed.
    cache = DynamicCache()
    with torch.no_grad():
        base(
            inputs_embeds=head,
            attention_mask=head_mask.long(),
            position_ids=(head_mask.long().cumsum(dim=1) - 1).clamp_min(0),
            **{cache_name(base): cache},
            use_cache=True,
        )
    embeds = prefix(batch.latents).to(head.dtype)
    is_latent = None
    if batch.tokens is not None:
        is_latent = batch.tokens < 0
        words = base.get_input_embeddings()(batch.tokens.clamp_min(0))
        embeds = torch.where(is_latent.unsqueeze(-1), embeds, words)
    num_entries = embeds.shape[1]
    step = num_entries if torch.is_grad_enabled() else ENTRIES_AT_A_TIME
    mask = torch.cat([head_mask, batch.mask], dim=1).long()
    for first in range(0, num_entries, step):
        stop = min(first + step, num_entries)
        rows = None if is_latent is None else is_latent[:, first:stop]
        with lora_on(anatomy, prefix.lora, rows):
            base(
                inputs_embeds=embeds[:, first:stop],
                attention_mask=mask[:, : head.shape[1] + stop],
                position_ids=positions[:, first:stop],
                **{cache_name(base): cache},
                use_cache=True,
            )
    start = head.shape[1]
    return {
        i: (layer.keys[:, :, start:], layer.values[:, :, start:])
        for i, layer in enumerate(cache.layers)
    }
