"""Carved memories: the LLM's lower layers read all tokens, the layers above a share of them.

Reading is what a vision-language model does with a carving method attached (all visual tokens
through some layers, fewer above), on text that was read off pictures. Rows that go on have seen all
tokens below the cut; a LoRA on the layers above makes up for the rows that are missing there. After
the cut a memory holds the same rows in every layer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from foveate.models.anatomy import Anatomy
from foveate.vist.forms.layers import HeldKeys, check_layers, run_layers
from foveate.vist.fusion.fusion import PrefixCache
from foveate.vist.fusion.kv_prefix import Lora
from foveate.vist.fusion.lora_hooks import lora_on
from foveate.vist.latents.memory import Memory

__all__ = ["Lower", "carve", "carved_prefix", "lower_of", "read_lower"]


@dataclass(frozen=True, kw_only=True)
class Lower:
    """What the layers below a cut made of documents.

    Args:
        head: keys and values of the text before each document, in all layers.
        head_mask: [B, H] bool, padding on the left.
        held: layer below the cut -> keys and values of all document tokens, [B, H_kv, N, d].
        hidden: [B, N, hidden_size], the stream that enters the layer at the cut.
        positions: [B, N], of the tokens.
        mask: [B, N] bool, True = a token; padding on the right.
        cut: that layer.
    """

    head: dict[int, tuple[Tensor, Tensor]]
    head_mask: Tensor
    held: dict[int, tuple[Tensor, Tensor]]
    hidden: Tensor
    positions: Tensor
    mask: Tensor
    cut: int


@torch.no_grad()
def read_lower(
    anatomy: Anatomy,
    head: Tensor,
    head_mask: Tensor,
    tokens: Tensor,
    positions: Tensor,
    mask: Tensor,
    cut: int,
) -> Lower:
    """Run documents through the layers below a cut, after their heads.

    Args:
        anatomy: of the decoder.
        head: [B, H, hidden_size], input embeddings of the text before each document.
        head_mask: [B, H] bool, padding on the left.
        tokens: [B, N, hidden_size], input embeddings of the documents' tokens.
        positions: [B, N], behind the heads'.
        mask: [B, N] bool, padding on the right.
        cut: the first layer that is left out.
    """
    held = HeldKeys()
    all_layers = range(len(anatomy.layers))
    places = (head_mask.long().cumsum(dim=1) - 1).clamp_min(0)
    run_layers(anatomy, head, places, held, all_layers, head_mask)
    of_head = dict(held.held)
    seen = torch.cat([head_mask, mask], dim=1)
    below = HeldKeys({i: of_head[i] for i in range(cut)})
    hidden = run_layers(anatomy, tokens, positions, below, range(cut), seen)
    return Lower(
        head=of_head,
        head_mask=head_mask,
        held=below.rows(head.shape[1]),
        hidden=hidden,
        positions=positions,
        mask=mask,
        cut=cut,
    )


def carve(
    anatomy: Anatomy,
    lora: Lora | None,
    lower: Lower,
    kept: Tensor,
    kept_mask: Tensor,
    *,
    spans: tuple[int, ...],
    is_raw: Tensor | None = None,
) -> PrefixCache:
    """Let some rows go on above the cut; differentiable in the LoRA.

    Args:
        anatomy: of the decoder.
        lora: acts on these rows in the layers it has; None leaves them alone.
        lower: what they come from.
        kept: [B, K] int64, which tokens, ascending.
        kept_mask: [B, K] bool, padding on the right.
        spans: B positions that each memory takes up.
        is_raw: [B, K] bool, rows that the LoRA leaves alone; None is none.
    """
    wide = kept[..., None].expand(-1, -1, lower.hidden.shape[-1])
    hidden = lower.hidden.gather(1, wide)  # [B, K, hidden_size]
    positions = lower.positions.gather(1, kept)
    above = range(lower.cut, len(anatomy.layers))
    held = HeldKeys({i: lower.head[i] for i in above})
    seen = torch.cat([lower.head_mask, kept_mask], dim=1)
    with lora_on(anatomy, lora, None if is_raw is None else ~is_raw):
        run_layers(anatomy, hidden, positions, held, above, seen)

    def rows(kv: Tensor) -> Tensor:
        index = kept[:, None, :, None].expand(-1, kv.shape[1], -1, kv.shape[3])
        return kv.gather(2, index)

    all_rows = {i: (rows(k), rows(v)) for i, (k, v) in lower.held.items()}
    all_rows |= held.rows(lower.head_mask.shape[1])
    counts = lower.mask.sum(dim=1).tolist()
    return PrefixCache(
        keys={i: k for i, (k, _) in all_rows.items()},
        values={i: v for i, (_, v) in all_rows.items()},
        mask=kept_mask,
        memory_at=tuple(int(n) for n in lower.head_mask.sum(dim=1).tolist()),
        spans=spans,
        num_tokens=tuple(int(n) for n in counts),
    )


def lower_of(anatomy: Anatomy, memory: Memory, head: Tensor, span: int, cut: int) -> Lower:
    """What the layers below a cut make of a carved memory's tokens.

    Args:
        anatomy: of the decoder.
        memory: with tokens.
        head: [1, H, hidden_size], input embeddings of the text before it.
        span: positions it takes up; those of its tokens shrink where they are fewer.
        cut: the first layer that only the memory's entries enter.

    Raises:
        UnsupportedModelError: see `check_layers`.
    """
    assert memory.tokens is not None
    check_layers(anatomy, head.shape[1] + memory.num_tokens)
    tokens = memory.tokens[None].to(head.device)
    base: Any = anatomy.base
    embeds = base.get_input_embeddings()(tokens.clamp_min(0))
    scale = span / max(1, memory.num_tokens)
    positions = head.shape[1] + torch.arange(memory.num_tokens, device=head.device)[None] * scale
    head_mask = torch.ones(head.shape[:2], dtype=torch.bool, device=head.device)
    return read_lower(anatomy, head, head_mask, embeds, positions, tokens >= 0, cut)


def carved_prefix(
    anatomy: Anatomy,
    lora: Lora | None,
    memory: Memory,
    lower: Lower,
    span: int,
    is_raw: Tensor | None = None,
) -> PrefixCache:
    """Keys and values of one carved memory.

    Args:
        anatomy: of the decoder.
        lora: see `carve`.
        memory: of form "carved"; its entries name the tokens that go on.
        lower: see `lower_of`.
        span: positions it takes up.
        is_raw: [K] bool, entries that the LoRA leaves alone: looked at, not skimmed.
    """
    kept = memory.positions[None].long().to(lower.hidden.device)
    prefix = carve(
        anatomy, lora, lower, kept, torch.ones_like(kept, dtype=torch.bool), spans=(span,),
        is_raw=None if is_raw is None else is_raw[None].to(kept.device),
    )  # fmt: skip
    return replace(prefix, num_tokens=(memory.num_tokens,))
