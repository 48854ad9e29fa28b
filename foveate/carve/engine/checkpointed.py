"""Gradient checkpointing: what a layer leaves out of its call once the hooks before it have run."""

from __future__ import annotations

from typing import Any

from torch import nn

from foveate.models.cache_argument import with_cache


def without_unused_cache(layer: nn.Module, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The keyword arguments that a decoder layer really computes with.

    A layer under gradient checkpointing drops the KV cache it is given, inside, where no hook sees
    it. Masks and reports made for that cache would count keys that nobody stores.
    """
    is_checkpointed = getattr(layer, "gradient_checkpointing", False) and layer.training
    if not is_checkpointed or getattr(layer, "_can_checkpoint_with_cache", False):
        return kwargs
    return with_cache(kwargs, None)
