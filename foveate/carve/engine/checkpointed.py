"""Gradient checkpointing: what a layer leaves out of its call once the hooks before it have run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from foveate.errors import UnsupportedModeError
from foveate.models.cache_argument import with_cache

# Later versions checkpoint the forward alone; earlier ones the call, whose hooks run again when
# gradients are computed, long after the pass that they belong to.
_HOOKS_STAY_OUTSIDE = "__init_subclass__" in vars(GradientCheckpointingLayer)


def refuse_hooks_that_run_again(layers: Iterable[nn.Module]) -> None:
    """Raise UnsupportedModeError where gradient checkpointing would run hooks a second time."""
    if _HOOKS_STAY_OUTSIDE:
        return
    if any(getattr(layer, "gradient_checkpointing", False) and layer.training for layer in layers):
        raise UnsupportedModeError(
            "gradient checkpointing of this version of transformers runs hooks again in the "
            "backward pass, where nothing can be carved; use transformers 5.23 or later, or turn "
            "it off."
        )


def without_unused_cache(layer: nn.Module, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The keyword arguments that a decoder layer really computes with.

    A layer under gradient checkpointing drops the KV cache it is given, inside, where no hook sees
    it. Masks and reports made for that cache would count keys that nobody stores.
    """
    is_checkpointed = getattr(layer, "gradient_checkpointing", False) and layer.training
    if not is_checkpointed or getattr(layer, "_can_checkpoint_with_cache", False):
        return kwargs
    return with_cache(kwargs, None)
