"""Answer packed questions with visual tokens removed before one decoder layer.

An independent, plainly masked forward pass (no code of the training pass): position ids stay the
original ones, visual rows that are not kept leave the sequence before ``prune_layer``, and answer
tokens, which come after the prompt's prefill, never see removed tokens in any layer.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812

from foveate.embedded.joint import JointModel
from foveate.embedded.language import LANGUAGE_CONFIG
from foveate.embedded.vocabulary import ANSWER, BEGIN, VOCABULARY

__all__ = ["answers_right"]

_HEADS, _HEAD = LANGUAGE_CONFIG["num_attention_heads"], LANGUAGE_CONFIG["head_dim"]
_ANSWER_ID, _BEGIN_ID = VOCABULARY.index(ANSWER), VOCABULARY.index(BEGIN)


@torch.no_grad()
def answers_right(
    model: JointModel, visual: torch.Tensor, ids: torch.Tensor, targets: torch.Tensor, *,
    keep: torch.Tensor | None = None, prune_layer: int = 2,
) -> torch.Tensor:
    """Tell which questions greedy decoding answers exactly.

    Args:
        model: the joined model.
        visual: visual tokens of one picture, [V, 192].
        ids, targets: packed questions of that picture, [Q, L] (see ``packing.pack``).
        keep: indices of kept visual tokens, [K], 0 <= K <= V; None = all.
        prune_layer: decoder layer before which the others leave; 0 = they never enter.

    Returns:
        [Q] bool.
    """
    num_visual, (num_questions, length) = len(visual), ids.shape
    keep = torch.arange(num_visual) if keep is None else keep.sort().values
    table = model.language.model.embed_tokens
    x = torch.cat([table.weight[_BEGIN_ID][None], visual, table(ids.flatten())])[None]
    own = torch.arange(length) + 1 + num_visual
    positions = torch.cat([torch.arange(1 + num_visual), own.repeat(num_questions)])
    block = torch.cat([torch.full((1 + num_visual,), -1),
                       torch.arange(num_questions).repeat_interleave(length)])
    answering = ((ids == _ANSWER_ID).cumsum(1) - (ids == _ANSWER_ID).int()).bool().flatten()
    answering = torch.cat([torch.zeros(1 + num_visual, dtype=torch.bool), answering])
    kept = torch.ones(len(positions), dtype=torch.bool)
    kept[1:1 + num_visual] = False
    kept[1 + keep] = True
    causal = positions[:, None] >= positions[None]
    seen = causal & ((block[None] == -1) | (block[:, None] == block[None]))
    seen &= kept[None] | ~answering[:, None]
    for depth, layer in enumerate(model.language.model.layers):
        if depth == prune_layer:
            x, positions, seen = x[:, kept], positions[kept], seen[kept][:, kept]
        x = x + _attend(layer.self_attn, layer.input_layernorm(x), positions, seen)
        x = x + layer.mlp(layer.post_attention_layernorm(x))
    hidden = model.language.model.norm(x[0, -num_questions * length:])
    best = model.language.lm_head(hidden).argmax(-1).view(num_questions, length)
    return ((best == targets) | (targets == -100)).all(1)


def _attend(attention: torch.nn.Module, x: torch.Tensor, positions: torch.Tensor,
            seen: torch.Tensor) -> torch.Tensor:
    """Llama attention over x [1, T, 192] at ``positions`` [T] with the mask ``seen`` [T, T]."""
    rates = LANGUAGE_CONFIG["rope_theta"] ** -(torch.arange(0, _HEAD, 2) / _HEAD)
    angles = torch.cat([positions[:, None] * rates] * 2, -1)  # [T, 64]

    def heads(projection: torch.nn.Module, turn: bool) -> torch.Tensor:
        h = projection(x).view(1, -1, _HEADS, _HEAD).transpose(1, 2)
        if not turn:
            return h
        first, second = h.chunk(2, -1)
        return h * angles.cos() + torch.cat([-second, first], -1) * angles.sin()

    out = F.scaled_dot_product_attention(
        heads(attention.q_proj, True), heads(attention.k_proj, True),
        heads(attention.v_proj, False), attn_mask=seen)
    return attention.o_proj(out.transpose(1, 2).flatten(2))
