"""What a decoder with states must equal: its own layers, run on the shorter sequence.

A dropped token changes every later state, so it cannot be masked away. From the cut on, the plain
model's layers are given the tokens that are left, at their places; it runs without a cache, and
nothing of foveate. One row only.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.carve.oracle.masked import Plan, decoder_of


def short_logits(
    model: Any, inputs: dict[str, Any], plans: list[Plan], prune_layer: int, prompt_length: int
) -> Tensor:
    """Logits [1, L, V] of the tokens that are left.

    Args:
        inputs: arguments of the forward, one row; input_ids may run past the prompt.
        plans: what happens before prune_layer.
        prompt_length: rows from here on are generated: early layers that attend hide dropped
            columns from them. A state has seen them.
    """
    length = inputs["input_ids"].shape[1]
    stays = torch.ones(length, dtype=torch.bool)
    for _, tokens, kept, *_ in plans:
        stays[tokens] = False
        stays[tokens[kept]] = True
    places = stays.nonzero()[:, 0]
    is_late = torch.arange(length) >= prompt_length

    def before(index: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        mask = kwargs.get("attention_mask")
        if index < prune_layer:
            is_attention = hasattr(decoder_of(model).layers[index], "self_attn")
            if is_attention:
                kwargs["attention_mask"] = hidden_from(mask, is_late, ~stays)
            return args, kwargs
        hidden = args[0]
        if index == prune_layer:
            hidden = merged(hidden, plans)[:, places]
        if mask is not None:
            mask = mask[..., places]
            kwargs["attention_mask"] = mask[..., places, :] if mask.ndim == 4 else mask
        tables = kwargs.get("position_embeddings")
        if tables is not None:
            kwargs["position_embeddings"] = tuple(table[..., places, :] for table in tables)
        if kwargs.get("position_ids") is not None:
            kwargs["position_ids"] = kwargs["position_ids"][..., places]
        return (hidden, *args[1:]), kwargs

    handles = [
        layer.register_forward_pre_hook(
            lambda module, args, kwargs, i=i: before(i, args, kwargs), with_kwargs=True
        )
        for i, layer in enumerate(decoder_of(model).layers)
    ]
    try:
        with torch.no_grad():
            logits: Tensor = model(**inputs, use_cache=False).logits
        return logits
    finally:
        for handle in handles:
            handle.remove()


def hidden_from(mask: Tensor | None, rows: Tensor, columns: Tensor) -> Tensor:
    """`mask` (None: causal) in which `rows` [S] do not see `columns` [S] other than their own."""
    length = len(rows)
    if mask is None:
        mask = torch.ones(length, length, dtype=torch.bool).tril()[None, None]
    gone = rows[:, None] & columns[None, :] & ~torch.eye(length, dtype=torch.bool)
    if mask.dtype == torch.bool:
        return mask & ~gone
    return mask.masked_fill(gone, torch.finfo(mask.dtype).min)


def merged(hidden: Tensor, plans: list[Plan]) -> Tensor:
    """[1, S, D] with what is merged at each target."""
    hidden = hidden.clone()
    for _, tokens, _, sources, targets, adds in plans:
        for target in targets.unique():
            own, others = tokens[target], tokens[sources[targets == target]]
            if adds:
                hidden[0, own] += hidden[0, others].mean(dim=0)
            else:
                hidden[0, own] = hidden[0, torch.cat([own.view(1), others])].mean(dim=0)
    return hidden
