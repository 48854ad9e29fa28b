"""Hooks before every decoder layer, by which the slow paths change what a layer is called with.

Written against plain transformers, knowing nothing of how foveate carves.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

# (index of the layer, hidden states, other arguments by name) -> the same, changed
Change = Callable[[int, Tensor, dict[str, Any]], tuple[Tensor, dict[str, Any]]]

_WITHOUT_ATTENTION = ("linear_attention", "conv", "mamba", "moe", "mlp")


@contextmanager
def changed_layers(decoder: Any, change: Change) -> Iterator[None]:
    """Meanwhile every layer of `decoder` is called with what `change` makes of its call."""

    def before(index: int, layer: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        names = _names(type(layer).forward)
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        hidden = given.pop(names[0])
        hidden, given = change(index, hidden, given)
        return (hidden,), given

    handles = [
        layer.register_forward_pre_hook(functools.partial(before, index), with_kwargs=True)
        for index, layer in enumerate(decoder.layers)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def has_attention(decoder: Any, index: int) -> bool:
    """Whether layer `index` attends to other tokens, as opposed to keeping a state or neither."""
    for name in ("layer_types", "layers_block_type"):
        kinds = getattr(decoder.config, name, None)
        if kinds and len(kinds) == len(decoder.layers):
            return kinds[index] not in _WITHOUT_ATTENTION
    return getattr(decoder.layers[index], "block_type", "") not in _WITHOUT_ATTENTION


def has_states(decoder: Any) -> bool:
    """Whether some layer keeps a state, so that a dropped token changes what comes after it."""
    states = ("linear_attention", "conv", "mamba")
    kinds = (
        getattr(decoder.config, "layer_types", None)
        or getattr(decoder.config, "layers_block_type", None)
        or ()
    )
    return any(kind in states for kind in kinds)


def streams(hidden: Tensor, batch: int, length: int) -> Tensor:
    """Hidden states as [B, S, ...], also where several residual streams stand first; a view."""
    if (
        hidden.ndim == 4
        and hidden.shape[1:3] == (batch, length)
        and hidden.shape[:2]
        != (
            batch,
            length,
        )
    ):
        return hidden.permute(1, 2, 0, 3)
    return hidden


def merged(hidden: Tensor, sample: int, tokens: Tensor, sources: Tensor, targets: Tensor) -> None:
    """Write the mean of each merge target and its sources into its place in hidden [B, S, ...]."""
    for target in torch.unique(targets):
        members = tokens[torch.cat([target.view(1), sources[targets == target]])]
        hidden[sample, tokens[target]] = hidden[sample, members].mean(dim=0)


def as_allowed(mask: Tensor | None, length: int) -> Tensor:
    """A 4-D attention mask as bool, True where a row may look; none at all is a causal one."""
    if mask is None:
        return torch.ones(length, length, dtype=torch.bool).tril()[None, None]
    return mask if mask.dtype == torch.bool else mask == 0


def in_form_of(mask: Tensor | None, allowed: Tensor) -> Tensor:
    """`allowed` as the kind of mask that the model uses."""
    if mask is None or mask.dtype == torch.bool:
        return allowed
    zeros = torch.zeros(allowed.shape, dtype=mask.dtype)
    return zeros.masked_fill(~allowed, torch.finfo(mask.dtype).min)


@functools.lru_cache(maxsize=64)
def _names(forward: Any) -> tuple[str, ...]:
    return tuple(inspect.signature(forward).parameters)[1:]
