"""Carving the layers of a KV cache: their carved forms, and what is left alone or refused."""

from __future__ import annotations

import functools
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicCache

from foveate.carve.engine.cache import CarvedLayer, SameRows
from foveate.carve.engine.held_rows import HeldRows
from foveate.carve.engine.indexed_cache import CarvedIndexedLayer
from foveate.carve.engine.shortened_cache import slots_of
from foveate.errors import UnsupportedModeError
from foveate.models.cache_kinds import INDEXED, NOTHING, PER_TOKEN, STATE

# Plain layer -> its carved form.
CARVED: dict[type, type[CarvedLayer]] = {
    **dict.fromkeys(PER_TOKEN, CarvedLayer),
    **dict.fromkeys(INDEXED, CarvedIndexedLayer),
}
# Nothing in them belongs to one token: a state of all, or nothing at all.
LEFT_ALONE: tuple[type, ...] = (*STATE, *NOTHING)


def same_rows(batch: int, device: torch.device) -> SameRows:
    """Rows of plain layers, the same object for all that hold as much.

    Args:
        batch, device: of the rows.
    """

    @functools.lru_cache(maxsize=8)
    def rows(seen: int, held: int) -> HeldRows:
        return HeldRows.last_of(seen, held, batch, device)

    return rows


def carved_form(layer: Any, same: SameRows) -> CarvedLayer | None:
    """The carved form of a cache layer, with all it holds; None for one that is left alone.

    Args:
        layer: of the cache.
        same: see `same_rows`.

    Raises:
        UnsupportedModeError: the layer is of no kind that foveate knows.
    """
    if isinstance(layer, CarvedLayer):
        return layer
    if type(layer) in LEFT_ALONE:
        return None
    if type(layer) not in CARVED:
        raise UnsupportedModeError(
            f"cache layer {type(layer).__name__} cannot be carved, only dynamic ones can; "
            "leave cache_implementation unset (or pass a DynamicCache)."
        )
    return CARVED[type(layer)].of(layer, same)


def check_carvable(cache: object) -> None:
    """Raise UnsupportedModeError unless `cache` is one whose layers can be carved."""
    if not isinstance(cache, Cache):
        raise UnsupportedModeError(
            f"past_key_values is a {type(cache).__name__}; pass a transformers DynamicCache."
        )
    if getattr(cache, "offloading", False):
        raise UnsupportedModeError(
            "an offloaded cache cannot be carved; leave cache_implementation unset."
        )
    for layer in cache.layers:
        if type(layer) not in (*CARVED, *CARVED.values(), *LEFT_ALONE):
            raise UnsupportedModeError(
                f"{type(cache).__name__} with {type(layer).__name__} layers cannot be carved: "
                "their size is fixed or their content encoded; leave cache_implementation unset "
                "(or pass a DynamicCache)."
            )


def check_without_cache(text_config: Any) -> None:
    """Hold a model that runs without a cache to the layers that its own cache would have.

    Raises:
        UnsupportedModeError: one of them cannot be carved: such attention counts its keys itself.
    """
    check_carvable(DynamicCache(config=text_config))


def ensure_layers(cache: Cache, count: int) -> None:
    """Create the lazily made layers of `cache` up to `count`."""
    while len(cache.layers) < count and cache.layer_class_to_replicate is not None:
        cache.layers.append(cache.layer_class_to_replicate())


def cache_bytes(cache: Cache) -> tuple[int, int] | tuple[None, None]:
    """(bytes held by K and V, bytes an uncompressed cache of the same length would hold).

    None where a layer is of a kind that may hold more than that.
    """
    if any(type(layer) not in (*CARVED, *CARVED.values(), *LEFT_ALONE) for layer in cache.layers):
        return None, None
    held = full = 0
    slots = slots_of(cache)
    for layer in cache.layers:
        if getattr(layer, "keys", None) is None or not layer.keys.numel():
            continue
        per_slot = sum(
            t.element_size() * t.shape[0] * t.shape[1] * t.shape[3]
            for t in (layer.keys, layer.values)
        )
        held += per_slot * layer.keys.shape[2]
        length = layer.get_seq_length() if slots is None else slots.seen
        if layer.is_sliding:
            length = min(length, layer.sliding_window - 1)
        full += per_slot * length
    return held, full
