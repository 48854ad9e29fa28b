"""Memories of held states: the LLM reads a document once, its keys and values stay on the host.

What a question needs of them is brought to the accelerator: some anchors always, and the segments
that it looks at, exact. A file of `Memory.save` is mapped, so that of a long document only these
rows are ever read from the disk.
"""

from __future__ import annotations

import torch
from torch import Tensor

from foveate.errors import InputError
from foveate.models.anatomy import Anatomy
from foveate.vist.forms.layers import HeldKeys, check_layers, run_layers
from foveate.vist.fusion.fusion import PrefixCache
from foveate.vist.latents.held_states import HeldStates
from foveate.vist.latents.memory import Memory

__all__ = ["hold_states", "states_prefix"]


@torch.no_grad()
def hold_states(
    anatomy: Anatomy,
    head: Tensor,
    tokens: Tensor,
    is_real: Tensor,
    head_ids: tuple[int, ...],
    model: str,
) -> HeldStates:
    """Let the LLM read a document, layer by layer; each layer's keys and values go to the host.

    Args:
        anatomy: of the decoder.
        head: [1, H, hidden_size], input embeddings of the text before the document.
        tokens: [1, N, hidden_size], of its tokens.
        is_real: [1, N] bool, False for tokens that could not be read.
        head_ids, model: see HeldStates.

    Raises:
        InputError: head and document exceed the model's positions.
        UnsupportedModelError: see `check_layers`.
    """
    window = int(anatomy.config.max_position_embeddings)
    num_head, num_tokens = head.shape[1], tokens.shape[1]
    if num_head + num_tokens > window:
        raise InputError(
            f"form='states' needs the LLM to read the document whole, and its {num_tokens} tokens "
            f"after {num_head} exceed the model's {window} positions; use form='latents', or read "
            "it in parts."
        )
    check_layers(anatomy, num_head + num_tokens)
    hidden = torch.cat([head, tokens], dim=1)
    places = torch.arange(hidden.shape[1], device=hidden.device)[None]
    seen = torch.cat([is_real.new_ones(1, num_head), is_real], dim=1)
    keys, values = [], []
    for layer in range(len(anatomy.layers)):
        held = HeldKeys()
        hidden = run_layers(anatomy, hidden, places, held, [layer], seen)
        k, v = held.held[layer]
        keys.append(k[0, :, num_head:].to("cpu", copy=True))
        values.append(v[0, :, num_head:].to("cpu", copy=True))
    return HeldStates(keys=tuple(keys), values=tuple(values), head_ids=head_ids, model=model)


def states_prefix(
    memory: Memory, span: int, head_ids: tuple[int, ...], device: torch.device
) -> PrefixCache:
    """Keys and values of the tokens that a memory's entries name, on the device.

    Args:
        memory: of form "states".
        span: positions it takes up; all its tokens'.
        head_ids: of the prompt before it.
        device: of the decoder.

    Raises:
        InputError: another head text than the states were made after, or positions that do not fit.
    """
    states = memory.states
    assert states is not None
    if head_ids != states.head_ids:
        begins = f"begins with {list(head_ids)[:8]}" if head_ids else "comes without token ids"
        raise InputError(
            f"the memory's states were made after the tokens {list(states.head_ids)[:8]}, and the "
            f"prompt {begins}; begin it with the same tokens (memory_at={len(states.head_ids)}), "
            "or read the document with head_ids= those of the prompt."
        )
    if span != memory.num_tokens:
        raise InputError(
            f"the memory's states are of {memory.num_tokens} positions and {span} are left for "
            "them beside the prompt and its new tokens; shorten these, or use form='latents'."
        )
    rows = states.rows(memory.positions.long(), device)
    return PrefixCache(
        keys={layer: keys for layer, (keys, _) in enumerate(rows)},
        values={layer: values for layer, (_, values) in enumerate(rows)},
        mask=torch.ones(1, memory.num_latents, dtype=torch.bool, device=device),
        memory_at=(len(head_ids),),
        spans=(span,),
        num_tokens=(memory.num_tokens,),
        heads=(head_ids,),
    )
