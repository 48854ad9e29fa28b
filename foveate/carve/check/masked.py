"""The slow path for decoders of attention layers: drop nothing, hide the columns of the dropped.

Full length, an explicit mask, no cache. Not to be used where a layer keeps a state: a token that is
only hidden still passes through it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from foveate.carve.check.layer_calls import as_allowed, changed_layers, in_form_of, merged, streams

# Per image: (row, columns of its tokens, kept, merge sources, merge targets), the last three
# counting within those columns.
Image = tuple[int, Tensor, Tensor, Tensor, Tensor]


def staying(images: Sequence[Image], length: int) -> Tensor:
    """Which tokens of one row are left, [S] bool."""
    stays = torch.ones(length, dtype=torch.bool)
    for _, tokens, kept, _, _ in images:
        stays[tokens] = False
        stays[tokens[kept]] = True
    return stays


def masked_logits(
    model: Any,
    decoder: nn.Module,
    inputs: dict[str, Any],
    images: Sequence[Image],
    layer: int,
    prompt_length: int,
) -> Tensor:
    """Logits [B, S, V] of a forward pass in which dropped tokens are invisible from `layer` on.

    Args:
        decoder: the module with `.layers`.
        inputs: arguments of the forward; input_ids [B, S] go on past the prompt (generated tokens).
        images: what was kept of each.
        layer: first decoder layer that does not see what is dropped.
        prompt_length: rows from here on are generated: they do not see it in any layer.
    """
    batch, length = inputs["input_ids"].shape
    gone = torch.zeros(batch, length, dtype=torch.bool)
    for row, tokens, kept, _, _ in images:
        stays = torch.zeros(len(tokens), dtype=torch.bool)
        stays[kept] = True
        gone[row, tokens[~stays]] = True
    late = torch.arange(length) >= prompt_length
    own = torch.eye(length, dtype=torch.bool)

    def hide(index: int, hidden: Tensor, given: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        if index == layer:
            hidden = hidden.clone()
            for row, tokens, _, sources, targets in images:
                merged(streams(hidden, batch, length), row, tokens, sources, targets)
        mask = given.get("attention_mask")
        hidden_columns = gone[:, None, None, :].expand(-1, -1, length, -1)
        if index < layer:
            hidden_columns = hidden_columns & late[None, None, :, None]
        allowed = as_allowed(mask, length)
        # A dropped row may see itself, so that no row is empty.
        alone = hidden_columns | ~allowed.any(dim=-1, keepdim=True)
        allowed = (allowed & ~hidden_columns) | (own & alone)
        return hidden, {**given, "attention_mask": in_form_of(mask, allowed)}

    with changed_layers(decoder, hide), torch.no_grad():
        logits: Tensor = model(**inputs, use_cache=False).logits
    return logits
