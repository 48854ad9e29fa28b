"""The frozen LLM as its own teacher: its states on the raw text, and what its attention sees."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from foveate.models.anatomy import Anatomy
from foveate.vist.fusion.fusion import PrefixCache
from foveate.vist.fusion.kv_prefix import rotate
from foveate.vist.fusion.prefix import project_states


@dataclass(frozen=True, kw_only=True)
class TeacherStates:
    """What the teacher computed of raw text.

    Args:
        layers: the normed input of each layer, [B, C, hidden_size]; empty if not asked for.
        tail: last hidden states in front of the scored tokens, [B, K, hidden_size]; None if not
            asked for.
    """

    layers: list[Tensor] = field(default_factory=list)
    tail: Tensor | None = None


@torch.no_grad()
def teacher_states(
    anatomy: Anatomy, ids: Tensor, *, context: tuple[int, int] | None, score_last: int
) -> TeacherStates:
    """Run the unmodified model over raw text [B, S], without padding.

    Args:
        anatomy: of the model.
        ids: head, context and tail.
        context: first token and the one after the last whose states are kept, None for no states.
        score_last: K, 0 for no tail.
    """
    with recorded_states(anatomy, context) as layers:
        hidden = anatomy.base(input_ids=ids, use_cache=False).last_hidden_state
    tail = hidden[:, -score_last - 1 : -1] if score_last else None
    return TeacherStates(layers=[layers[i] for i in sorted(layers)], tail=tail)


@contextmanager
def recorded_states(
    anatomy: Anatomy, rows: tuple[int, int] | None = None
) -> Iterator[dict[int, Tensor]]:
    """Collect the normed input of each layer's attention, of the last pass in the block.

    Args:
        anatomy: of the decoder.
        rows: first row kept and the one after the last; None records nothing.
    """
    found: dict[int, Tensor] = {}
    handles = []
    try:
        for i, layer in enumerate(anatomy.layers if rows is not None else ()):

            def keep(module: nn.Module, args: tuple[Any, ...], i: int = i) -> None:
                found[i] = args[0][:, slice(*rows)] if rows else args[0]

            # What k_proj gets is the normed input in every family that can read memories.
            handles.append(layer.self_attn.k_proj.register_forward_pre_hook(keep))
        yield found
    finally:
        for handle in handles:
            handle.remove()


def teacher_keys_values(
    anatomy: Anatomy, states: Sequence[Tensor], skip_layers: int = 0
) -> list[tuple[Tensor, Tensor]]:
    """Keys before rotation and values of target states, layer by layer, [B, M, H_kv, head_dim]."""
    made = []
    for layer, targets in list(zip(anatomy.layers, states, strict=True))[skip_layers:]:
        keys, values = project_states(layer, targets)
        made.append((keys.transpose(1, 2), values.transpose(1, 2)))
    return made


def memory_keys_values(
    anatomy: Anatomy, prefix: PrefixCache, positions: Tensor, skip_layers: int = 0
) -> list[tuple[Tensor, Tensor]]:
    """The same of memories: their keys turned back by the rotation of their positions.

    Turned back, keys at different positions can be compared, and their spread says something.

    Args:
        anatomy: of the decoder.
        prefix: of the memories, differentiable.
        positions: [B, M], where the latents stand in the model's positions.
        skip_layers: first layers that are left out.
    """
    some = next(iter(prefix.keys.values()))
    cos, sin = anatomy.base.rotary_emb(some, positions)
    # Some rotary tables carry a factor; undoing the rotation must divide by it twice.
    square = (cos.float().square() + sin.float().square()).mean()
    made = []
    for i, layer in list(enumerate(anatomy.layers))[skip_layers:]:
        keys = prefix.keys[i]
        if getattr(layer.self_attn, "use_rope", True):
            keys = rotate(keys, cos, -sin) / square
        made.append((keys.transpose(1, 2), prefix.values[i].transpose(1, 2)))
    return made
