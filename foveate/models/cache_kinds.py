"""Which decoders may lose tokens between layers, told by the layers of their KV cache.

Allowed are the kinds whose layers are known to hold one entry a token, or nothing a token. An
unknown kind may hold blocks, windows or compressed tokens, which a dropped token would shift
without a word, so it is not guessed at: such a decoder takes a shorter prompt only.
"""

from __future__ import annotations

from typing import Any

from transformers import DynamicCache, cache_utils


def _kinds(*names: str) -> tuple[type, ...]:
    """Those that the installed transformers has: not every version has all."""
    return tuple(getattr(cache_utils, name) for name in names if hasattr(cache_utils, name))


# Compared by exact type: a subclass may hold more.
PER_TOKEN = _kinds("DynamicLayer", "DynamicSlidingWindowLayer")
INDEXED = _kinds("DynamicIndexedLayer")
STATE = _kinds("LinearAttentionLayer")
NOTHING = _kinds("DummyLayer")


def cache_kinds(config: Any) -> tuple[str, ...]:
    """Names of the kinds of layers that a cache made for `config` has, sorted.

    Raises:
        KeyError, AttributeError, TypeError: transformers cannot make one.
    """
    return tuple(sorted({type(layer).__name__ for layer in DynamicCache(config=config).layers}))


def why_not_in_llm(config: Any) -> str:
    """Why tokens may not leave between decoder layers, a sentence; "" if they may."""
    try:
        layers = DynamicCache(config=config).layers
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        return f"no plain KV cache can be made for its decoder ({type(error).__name__}: {error})."
    kinds = {type(layer) for layer in layers}
    strange = sorted(kind.__name__ for kind in kinds - {*PER_TOKEN, *INDEXED, *STATE, *NOTHING})
    if strange:
        return (
            f"its decoder keeps {', '.join(strange)} in the KV cache, which may hold more than one "
            "entry a token."
        )
    if kinds & set(INDEXED) and kinds & set(STATE):
        return (
            "its decoder mixes layers with an indexer and layers with a state, and the indexer's "
            "blocks would shift."
        )
    return ""
