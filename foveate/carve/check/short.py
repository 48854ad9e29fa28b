"""The slow path for decoders with states: from a layer on, the model's own layers on fewer tokens.

A dropped token would change every later state, so that hiding it means nothing; what can be
promised is that the layers see exactly the shorter sequence, at its original positions. No cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from foveate.carve.check.layer_calls import (
    as_allowed,
    changed_layers,
    has_attention,
    in_form_of,
    merged,
    streams,
)
from foveate.carve.check.masked import Image, staying


def short_logits(
    model: Any,
    decoder: nn.Module,
    inputs: dict[str, Any],
    images: Sequence[Image],
    layer: int,
    prompt_length: int,
) -> Tensor:
    """Logits [1, S', V] of a forward pass that goes on with the kept tokens from `layer` on.

    Args:
        decoder: the module with `.layers`.
        inputs: arguments of the forward; input_ids [1, S], one row without padding.
        images: what was kept of each.
        layer: first decoder layer that runs on fewer tokens.
        prompt_length: rows from here on are generated: attention layers before `layer` hide from
            them what is dropped, as a cache that was cut does.
    """
    batch, length = inputs["input_ids"].shape
    stays = staying(images, length)
    columns = stays.nonzero()[:, 0]
    late = torch.arange(length) >= prompt_length

    def cut(index: int, hidden: Tensor, given: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        mask = given.get("attention_mask")
        if index < layer:
            if has_attention(decoder, index):
                own = torch.eye(length, dtype=torch.bool)
                unseen = late[:, None] & ~stays[None, :] & ~own
                allowed = as_allowed(mask, length) & ~unseen
                given = {**given, "attention_mask": in_form_of(mask, allowed)}
            return hidden, given
        given = _narrowed(given, columns, length)
        if index > layer:
            return hidden, given
        hidden = hidden.clone()
        view = streams(hidden, batch, length)
        for row, tokens, _, sources, targets in images:
            merged(view, row, tokens, sources, targets)
        if view is hidden:
            return hidden[:, columns], given
        return view[:, columns].permute(2, 0, 1, 3), given

    with changed_layers(decoder, cut), torch.no_grad():
        logits: Tensor = model(**inputs, use_cache=False).logits
    return logits


def _narrowed(given: dict[str, Any], columns: Tensor, length: int) -> dict[str, Any]:
    """A layer's arguments for `columns` of the tokens."""
    out = dict(given)
    mask = given.get("attention_mask")
    if isinstance(mask, Tensor):
        out["attention_mask"] = (
            mask[..., columns, :][..., columns] if mask.ndim == 4 else mask[..., columns]
        )
    tables = given.get("position_embeddings")
    if isinstance(tables, Tensor):
        out["position_embeddings"] = _rows(tables, columns, length)
    elif isinstance(tables, (tuple, list)):
        out["position_embeddings"] = tuple(_rows(table, columns, length) for table in tables)
    positions = given.get("position_ids")
    if isinstance(positions, Tensor):
        out["position_ids"] = positions[..., columns]
    done = ("attention_mask", "position_embeddings", "position_ids")
    for name, value in given.items():
        if name in done or not isinstance(value, Tensor) or value.ndim < 2:
            continue
        if value.shape[1] == length and value.is_floating_point():
            out[name] = value[:, columns]
    return out


def _rows(table: Tensor, columns: Tensor, length: int) -> Tensor:
    """Rotary tables [..., S, D] of some tokens."""
    return table[..., columns, :] if table.shape[-2] == length else table
