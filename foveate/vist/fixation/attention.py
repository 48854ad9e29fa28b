"""Where a question's attention falls among latents: one short pass of the question behind them."""

from __future__ import annotations

import functools
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from foveate.models.anatomy import Anatomy
from foveate.models.hook import hook_before
from foveate.vist.fusion.fuse import Fuser
from foveate.vist.fusion.fusion import Fusion, PrefixCache
from foveate.vist.fusion.kv_prefix import rotate
from foveate.vist.fusion.prefix import project_states

__all__ = ["question_attention"]


@torch.no_grad()
def question_attention(
    anatomy: Anatomy, fusion: Fusion, prefix: PrefixCache, head: Tensor, question: Tensor
) -> Tensor:
    """Attention of a question's last token on each latent, mean over layers and heads.

    The shares of the latents, of head and question sum to 1. The last token speaks for the
    question: what it is to be followed by is what the model looks for.

    Args:
        anatomy: of the decoder.
        fusion: trained modules of the prefix form.
        prefix: one row.
        head: [1, H, hidden_size] input embeddings before the memory.
        question: int64 [Q] token ids.

    Returns:
        float32 [M].
    """
    base: Any = anatomy.base
    embeds = torch.cat([head, base.get_input_embeddings()(question[None])], dim=1)
    found = torch.zeros(prefix.mask.shape[1], device=embeds.device)
    with ExitStack() as hooks:
        hooks.enter_context(Fuser(anatomy, fusion, lambda text: prefix))
        # After the Fuser's own hooks: the rotary tables are then those of text behind a memory.
        for i, layer in enumerate(anatomy.layers):
            attention: Any = layer.self_attn
            look = functools.partial(_add_attention, found, prefix.keys[i])
            hooks.callback(hook_before(attention, functools.partial(look, layer)).remove)
        base(inputs_embeds=embeds, use_cache=False)
    return found / len(anatomy.layers)


def _add_attention(
    found: Tensor, memory: Tensor, layer: nn.Module, module: nn.Module, args: Any, kwargs: Any
) -> None:
    """Add what the last row of a layer's input sees of the memory's keys [1, H_kv, M, d]."""
    attention: Any = module
    states = args[0] if args else kwargs["hidden_states"]
    split = (1, 1, -1, attention.head_dim)
    queries = attention.q_proj(states[:, -1:]).view(split)
    if hasattr(attention, "q_norm"):
        queries = attention.q_norm(queries)
    queries = queries.transpose(1, 2)  # [1, H, 1, d]
    keys, _ = project_states(layer, states)
    if getattr(attention, "use_rope", True):
        cos, sin = kwargs["position_embeddings"]
        queries, keys = rotate(queries, cos[:, -1:], sin[:, -1:]), rotate(keys, cos, sin)
    keys = torch.cat([memory.to(keys), keys], dim=2)
    grouped = queries.view(keys.shape[1], -1, attention.head_dim)  # [H_kv, H / H_kv, d]
    scores = (grouped.float() @ keys[0].float().transpose(1, 2)) * attention.scaling
    found += scores.softmax(dim=-1).mean(dim=(0, 1))[: len(found)]
