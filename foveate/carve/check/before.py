"""The slow path for prompts shortened before the decoder: the model's own decoder, called on less.

The model runs once, without a cache, on the whole sequence; where it calls its decoder, that is
called with the embeddings that are kept, at their original positions. Written against plain
transformers, knowing nothing of how foveate carves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from foveate.carve.check.layer_calls import changed_layers, merged
from foveate.carve.check.masked import Image, staying


def before_logits(
    model: Any,
    decoder: Any,
    inputs: dict[str, Any],
    images: Sequence[Image],
    *,
    keeps_positions: bool = True,
) -> Tensor:
    """Logits [1, L, V] of a forward pass whose decoder is called on the kept tokens alone.

    Args:
        decoder: the module with `.layers`.
        inputs: arguments of the forward; input_ids [1, S], one row without padding, which go on
            past the prompt.
        images: what was kept of each.
        keeps_positions: False closes the gaps, which is wrong: a control.
    """
    length = inputs["input_ids"].shape[1]
    columns = staying(images, length).nonzero()[:, 0]

    def merge(values: Tensor) -> Tensor:
        values = values.clone()
        for row, tokens, _, sources, targets in images:
            merged(values, row, tokens, sources, targets)
        return values

    def call(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        assert not args, "decoders are called by name"
        positions = kwargs.get("position_ids")
        if positions is None:
            positions = torch.arange(length)[None]
        out = {
            name: _shorter(name, value, kwargs, columns, merge) for name, value in kwargs.items()
        }
        out["position_ids"] = positions[..., columns]
        if not keeps_positions:
            out["position_ids"] = positions[..., : len(columns)]
        mask = kwargs.get("attention_mask")
        if mask is None or (isinstance(mask, Tensor) and mask.ndim == 2):
            out["attention_mask"] = torch.ones(1, len(columns), dtype=torch.long)
        return (), out

    def place(index: int, hidden: Tensor, given: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        # An indexer of blocks reads position ids as places in the row.
        attention = getattr(decoder.layers[index], "self_attn", None)
        if hasattr(getattr(attention, "indexer", None), "block_size"):
            given = {**given, "position_ids": torch.arange(len(columns))[None]}
        return hidden, given

    with ExitStack() as stack, torch.no_grad():
        stack.callback(decoder.register_forward_pre_hook(call, with_kwargs=True).remove)
        stack.enter_context(changed_layers(decoder, place))
        logits: Tensor = model(**inputs, use_cache=False).logits
    return logits


def _shorter(
    name: str,
    value: Any,
    given: dict[str, Any],
    columns: Tensor,
    merge: Callable[[Tensor], Tensor],
) -> Any:
    """An argument of a decoder for `columns` of the tokens."""
    length = given["inputs_embeds"].shape[1]
    if name == "inputs_embeds":
        return merge(value)[:, columns]
    if name == "attention_mask" and isinstance(value, dict):
        return {kind: _mask(mask, columns) for kind, mask in value.items()}
    if name == "attention_mask":
        return _mask(value, columns)
    if name == "position_ids" or value is None:
        return value
    if isinstance(value, (list, tuple, dict)) and "deepstack" in name:
        masks = [v for v in given.values() if isinstance(v, Tensor) and v.dtype == torch.bool]
        where = masks[0].reshape(1, length, -1)[..., 0]

        def packed(features: Tensor) -> Tensor:
            whole = features.new_zeros(1, length, features.shape[-1])
            whole[where] = features
            return merge(whole)[:, columns][where[:, columns]]

        if isinstance(value, dict):
            return {key: packed(features) for key, features in value.items()}
        return [packed(features) for features in value]
    if isinstance(value, Tensor) and value.ndim > 1 and value.shape[1] == length:
        return value[:, columns]
    return value


def _mask(mask: Any, columns: Tensor) -> Any:
    if not isinstance(mask, Tensor):
        return mask
    return mask[..., columns, :][..., columns] if mask.ndim == 4 else mask[:, columns]
