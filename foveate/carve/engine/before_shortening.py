"""What must hold before a prompt is shortened, or a wrong answer could come of it."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache

from foveate.carve.engine.cache import CarvedLayer
from foveate.carve.engine.call import Call
from foveate.carve.method import Step
from foveate.errors import MethodError, UnsupportedModeError, UnsupportedModelError
from foveate.models.anatomy import Anatomy
from foveate.models.family import Family
from foveate.models.masks import is_flash


def check_steps(steps: Sequence[Step], family: Family) -> None:
    """Hold a method to what a prompt can be shortened by before its decoder.

    Raises:
        UnsupportedModelError: a step at a later layer may drop something.
        MethodError: positions are to be renumbered.
    """
    late = [
        step.layer
        for step in steps
        if step.layer > 0 and (step.method.counts_itself or not step.method.budget.keeps_all)
    ]
    if late:
        raise UnsupportedModelError(
            f"{family.title} can lose visual tokens before its language model only, and "
            f"{steps[-1].method.name} drops some at layer {late[-1]}"
            + (f": {family.why}" if family.why else ".")
            + " Methods that decide before it work: divprune, cdpruner, mmtok, visionzip, "
            "foveacarve(where=encoder), and others with prune_layer=0, such as "
            "uniform(prune_layer=0)."
        )
    ahead = [step for step in steps if "attention_ahead" in step.needs]
    if ahead:
        raise UnsupportedModelError(
            f"{ahead[0].method.name} ranks tokens by the attention of a decoder layer, and "
            f"{family.title} can lose visual tokens before its language model only; use a method "
            "that decides before it, such as divprune."
        )
    reading = [step for step in steps if "foresight" in step.needs]
    if reading:
        raise UnsupportedModelError(
            f"{reading[0].method.name} lets the question read ahead through decoder layers, and "
            f"{family.title} can lose visual tokens before its language model only; use "
            f"{reading[0].method.name}(where=encoder), which decides without the question."
        )
    if any(step.method.positions == "renumbered" for step in steps):
        raise MethodError(
            f"positions='renumbered' is for tokens dropped between decoder layers, and "
            f"{family.title} loses them before its language model; use positions='original'."
        )


def check_shortening(anatomy: Anatomy, call: Call, cache: Any, embeds: Tensor) -> None:
    """Refuse what could come out wrong with a shorter prompt.

    Args:
        anatomy: of the model.
        call: whose tokens are to be dropped.
        cache: that the decoder is given, None for none.
        embeds: [B, S, D] that it is given.

    Raises:
        UnsupportedModelError, UnsupportedModeError: in a sentence.
    """
    decoder = anatomy.decoder
    if tuple(embeds.shape[:2]) != (call.batch, call.length):
        raise UnsupportedModeError(
            f"the decoder is called with {tuple(embeds.shape[:2])} embeddings for a prompt of "
            f"{(call.batch, call.length)} tokens, so foveate cannot tell which are visual."
        )
    if "position_ids" not in inspect.signature(type(decoder).forward).parameters:
        raise UnsupportedModelError(
            f"{type(decoder).__name__} takes no position_ids, so a shorter prompt would lose its "
            "positions."
        )
    if cache is None and call.cache is not None:
        raise UnsupportedModelError(
            f"{type(decoder).__name__} is not given the KV cache as past_key_values, so foveate "
            "could not keep its positions right."
        )
    if cache is not None:
        _check_cache(cache)


def _check_cache(cache: Any) -> None:
    """Raise UnsupportedModeError unless a cache can be filled by a shorter prompt."""
    if not isinstance(cache, Cache) or hasattr(cache, "self_attention_cache"):
        raise UnsupportedModeError(
            f"past_key_values is a {type(cache).__name__}; pass a transformers DynamicCache."
        )
    if getattr(cache, "offloading", False) or (cache.layers and cache.is_compileable):
        raise UnsupportedModeError(
            f"a {type(cache).__name__} of fixed size, or offloaded, cannot take a shortened "
            "prompt; leave cache_implementation unset (or pass a DynamicCache)."
        )
    if any(isinstance(layer, CarvedLayer) for layer in cache.layers):
        raise UnsupportedModeError(
            "this KV cache was carved between decoder layers by another run, and cannot take a "
            "prompt that is shortened before them; start from an empty cache."
        )


def counts_places(anatomy: Anatomy) -> bool:
    """Whether layers read position ids as places in the row.

    Flash kernels take gaps between them for borders of sequences; an indexer of blocks finds a
    query's own block by them.
    """
    if is_flash(str(anatomy.text_config._attn_implementation)):
        return True
    indexers = [
        getattr(anatomy.attention_of(index), "indexer", None)
        for index in range(len(anatomy.layers))
    ]
    return any(hasattr(indexer, "block_size") for indexer in indexers)
