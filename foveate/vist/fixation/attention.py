"""Where a question's attention falls among latents: one short pass of the question behind them."""

from __future__ import annotations

import functools
import threading
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from foveate.models.anatomy import Anatomy
from foveate.models.cache_argument import cache_in, cache_name
from foveate.models.hook import hook_before
from foveate.models.thread_hooks import ThreadHooks
from foveate.vist.fusion.fusion import PrefixCache
from foveate.vist.fusion.kv_prefix import rotate
from foveate.vist.fusion.prefix import project_states

__all__ = ["AttentionHooks", "question_attention"]


@torch.no_grad()
def question_attention(
    anatomy: Anatomy, prefix: PrefixCache, head: Tensor, question: Tensor
) -> Tensor:
    """Attention of a question's last token on each latent, mean over layers and heads.

    The shares of the latents, of head and question sum to 1. The last token speaks for the
    question: what it is to be followed by is what the model looks for.

    Args:
        anatomy: of the decoder.
        prefix: one row.
        head: [1, H, hidden_size] input embeddings before the memory.
        question: int64 [Q] token ids.

    Returns:
        float32 [M].
    """
    base: Any = anatomy.base
    # Without a config its layers are never sliding ones: nothing is trimmed.
    cache = DynamicCache()
    base(inputs_embeds=head, use_cache=True, **{cache_name(base): cache})
    for i in range(len(anatomy.layers)):
        cache.update(prefix.keys[i].to(head), prefix.values[i].to(head), i)
    start, latents, asked = head.shape[1], prefix.mask.shape[1], len(question)
    # Given whole, so that sliding layers see the memory too, as they do in an answer.
    hidden = torch.ones(asked, start + latents + asked, device=head.device, dtype=torch.bool)
    hidden = hidden.triu(start + latents + 1)
    hidden[:, start : start + latents] |= ~prefix.mask
    mask = torch.zeros(hidden.shape, device=head.device, dtype=head.dtype)
    mask = mask.masked_fill(hidden, torch.finfo(head.dtype).min)
    first = start + prefix.longest_span
    found = torch.zeros(latents, device=head.device)
    with AttentionHooks.on(id(anatomy.decoder), lambda: AttentionHooks(anatomy)) as hooks:
        hooks.here.found, hooks.here.start = found, start
        try:
            base(
                inputs_embeds=base.get_input_embeddings()(question[None]),
                attention_mask=mask[None, None],
                position_ids=torch.arange(first, first + asked, device=head.device)[None],
                **{cache_name(base): cache},
                use_cache=True,
            )
        finally:
            hooks.here.found = None
    return found / len(anatomy.layers)


class _Here(threading.local):
    """What a thread gathers now: attention on latents [M], which come after `start` entries."""

    found: Tensor | None = None
    start: int = 0


class AttentionHooks(ThreadHooks):
    """Hooks that gather a question's attention in the threads that ask for it, nowhere else.

    Args:
        anatomy: of the decoder.
    """

    def __init__(self, anatomy: Anatomy) -> None:
        self.here = _Here()
        super().__init__(
            id(anatomy.decoder),
            [
                hook_before(
                    layer.get_submodule("self_attn"), functools.partial(self._add, i, layer)
                )
                for i, layer in enumerate(anatomy.layers)
            ],
        )

    def _add(
        self, index: int, layer: nn.Module, module: nn.Module, args: Any, kwargs: dict[str, Any]
    ) -> None:
        """Add what the last row of a layer's input sees of the latents' keys."""
        found, start = self.here.found, self.here.start
        if found is None:
            return
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
        before: Any = cache_in(kwargs)
        keys = torch.cat([before.layers[index].keys, keys], dim=2)  # [1, H_kv, H + M + Q, d]
        grouped = queries.view(keys.shape[1], -1, attention.head_dim)  # [H_kv, H / H_kv, d]
        scores = (grouped.float() @ keys[0].float().transpose(1, 2)) * attention.scaling
        shares = scores.softmax(dim=-1).mean(dim=(0, 1))
        found += shares[start : start + len(found)]
