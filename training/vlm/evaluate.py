"""Answer packed questions with visual tokens removed before one decoder layer.

An independent, plainly masked forward pass (no code of the training pass): position ids stay the
original ones, visual rows that are not kept leave the sequence before ``prune_layer``, and answer
tokens, which come after the prompt's prefill, never see removed tokens in any layer.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812

from training.vlm.joint import JointModel
from training.vlm.language import LANGUAGE_CONFIG, Attention
from training.vlm.vocabulary import ANSWER, BEGIN, VOCABULARY

__all__ = ["answers_right", "attention_rows"]

_HEADS, _HEAD = LANGUAGE_CONFIG["num_attention_heads"], LANGUAGE_CONFIG["head_dim"]
_ANSWER_ID, _BEGIN_ID = VOCABULARY.index(ANSWER), VOCABULARY.index(BEGIN)


@torch.no_grad()
def answers_right(
    model: JointModel,
    visual: torch.Tensor,
    ids: torch.Tensor,
    targets: torch.Tensor,
    *,
    keep: torch.Tensor | None = None,
    prune_layer: int = 2,
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
    block = torch.cat(
        [torch.full((1 + num_visual,), -1), torch.arange(num_questions).repeat_interleave(length)]
    )
    answering = ((ids == _ANSWER_ID).cumsum(1) - (ids == _ANSWER_ID).int()).bool().flatten()
    answering = torch.cat([torch.zeros(1 + num_visual, dtype=torch.bool), answering])
    kept = torch.ones(len(positions), dtype=torch.bool)
    kept[1 : 1 + num_visual] = False
    kept[1 + keep] = True
    causal = positions[:, None] >= positions[None]
    seen = causal & ((block[None] == -1) | (block[:, None] == block[None]))
    seen &= kept[None] | ~answering[:, None]
    for depth, layer in enumerate(model.language.model.layers):
        if depth == prune_layer:
            x, positions, seen = x[:, kept], positions[kept], seen[kept][:, kept]
        x = x + _attend(layer.self_attn, layer.input_layernorm(x), positions, seen)
        x = x + layer.mlp(layer.post_attention_layernorm(x))
    hidden = model.language.model.norm(x[0, -num_questions * length :])
    best = model.language.lm_head(hidden).argmax(-1).view(num_questions, length)
    return ((best == targets) | (targets == -100)).all(1)


@torch.no_grad()
def attention_rows(model: JointModel, visual: torch.Tensor, prompt: torch.Tensor) -> torch.Tensor:
    """Attention of the last prompt token to the visual tokens, mean over heads.

    Args:
        visual: visual tokens, [V, 192].
        prompt: ids of one question up to and with ``ASSISTANT:``, [L].

    Returns:
        [layers, V]; row k is what a method may use to select before layer k + 1.
    """
    table = model.language.model.embed_tokens
    x = torch.cat([table.weight[_BEGIN_ID][None], visual, table(prompt)])[None]
    positions = torch.arange(x.shape[1])
    seen = positions[:, None] >= positions[None]
    rows = []
    for layer in model.language.model.layers:
        normed = layer.input_layernorm(x)
        query = _heads(layer.self_attn.q_proj, normed, positions)[:, :, -1:]
        key = _heads(layer.self_attn.k_proj, normed, positions)
        weights = (query @ key.transpose(2, 3) * _HEAD**-0.5).softmax(-1)
        rows.append(weights[0, :, 0, 1 : 1 + len(visual)].mean(0))
        x = x + _attend(layer.self_attn, normed, positions, seen)
        x = x + layer.mlp(layer.post_attention_layernorm(x))
    return torch.stack(rows)


def _heads(
    projection: torch.nn.Module, x: torch.Tensor, positions: torch.Tensor | None
) -> torch.Tensor:
    """Project x [1, T, 192] to [1, H, T, 64], rotated when ``positions`` [T] are given."""
    h = projection(x).view(1, -1, _HEADS, _HEAD).transpose(1, 2)
    if positions is None:
        return h
    rates = LANGUAGE_CONFIG["rope_theta"] ** -(torch.arange(0, _HEAD, 2) / _HEAD)
    angles = torch.cat([positions[:, None] * rates] * 2, -1)  # [T, 64]
    first, second = h.chunk(2, -1)
    return h * angles.cos() + torch.cat([-second, first], -1) * angles.sin()


def _attend(
    attention: Attention, x: torch.Tensor, positions: torch.Tensor, seen: torch.Tensor
) -> torch.Tensor:
    """Llama attention over x [1, T, 192] at ``positions`` [T] with the mask ``seen`` [T, T]."""
    out = F.scaled_dot_product_attention(
        _heads(attention.q_proj, x, positions),
        _heads(attention.k_proj, x, positions),
        _heads(attention.v_proj, x, None),
        attn_mask=seen,
    )
    return attention.o_proj(out.transpose(1, 2).flatten(2))
