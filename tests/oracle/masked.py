"""The slow path that carving must equal: drop nothing, mask the columns of what was dropped.

Written against plain transformers with an explicit 4-D mask, no cache, and nothing of foveate.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def decoder_of(model: Any) -> Any:
    base = model.base_model
    return getattr(base, "language_model", None) or base.text_model


def masked_logits(
    model: Any,
    inputs: dict[str, Any],
    plans: list[tuple[int, Tensor, Tensor, Tensor, Tensor]],
    prune_layer: int,
    prompt_length: int,
    *,
    compact: bool = True,
) -> Tensor:
    """Logits of a full-length forward in which dropped tokens are invisible.

    Args:
        inputs: arguments of the forward; input_ids may run past the prompt (generated tokens).
        plans: per image (sample, token columns, kept, merge sources, merge targets), the last three
            counting within the image.
        prompt_length: rows from here on are generated: with a compact cache they do not see dropped
            columns in the early layers either.
    """
    batch, length = inputs["input_ids"].shape
    dropped = torch.zeros(batch, length, dtype=torch.bool)
    for sample, tokens, kept, _, _ in plans:
        dropped[sample, tokens] = True
        dropped[sample, tokens[kept]] = False
    late = torch.arange(length) >= prompt_length

    def hide(index: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        hidden = args[0].clone()
        if index == prune_layer:
            for sample, tokens, _, sources, targets in plans:
                for target in targets.unique():
                    members = tokens[torch.cat([target.view(1), sources[targets == target]])]
                    hidden[sample, tokens[target]] = hidden[sample, members].mean(dim=0)
        mask = kwargs.get("attention_mask")
        if mask is None:
            mask = torch.ones(length, length, dtype=torch.bool).tril()[None, None]
        allowed = mask if mask.dtype == torch.bool else mask == 0
        hidden_columns = dropped[:, None, None, :].expand(-1, -1, length, -1)
        if index < prune_layer:
            if not compact:
                return None
            hidden_columns = hidden_columns & late[None, None, :, None]
        # A dropped row may see itself, so that no row is empty.
        own = torch.eye(length, dtype=torch.bool)
        allowed = (allowed & ~hidden_columns) | (own & (hidden_columns | ~allowed.any(-1, True)))
        if mask.dtype != torch.bool:
            allowed = (
                torch.zeros_like(mask)
                .expand(allowed.shape)
                .masked_fill(~allowed, torch.finfo(mask.dtype).min)
            )
        return (hidden, *args[1:]), {**kwargs, "attention_mask": allowed}

    handles = [
        layer.register_forward_pre_hook(
            lambda module, args, kwargs, i=i: hide(i, args, kwargs), with_kwargs=True
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
