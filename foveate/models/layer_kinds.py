"""Which decoder layers attend, which keep a state instead, and where a layer's attention is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from foveate.errors import UnsupportedModelError

ATTENDING = ("full_attention", "sliding_attention", "chunked_attention", "indexed_attention")
STATEFUL = ("linear_attention", "conv", "mamba")  # recurrent: what came before is one state
WITHOUT_TOKENS = ("moe", "mlp")  # each token by itself
_NAMES = ("self_attn", "attention", "attn", "self_attention", "mixer")


def kind_of_layer(decoder: nn.Module, index: int) -> str:
    """What a decoder layer does with other tokens, in transformers' words.

    Args:
        decoder: holds `.layers`.
        index: of the layer.

    Returns:
        An entry of ATTENDING, STATEFUL or WITHOUT_TOKENS, or another name of the configuration.
    """
    layers: Any = decoder.layers
    kinds = getattr(getattr(decoder, "config", None), "layer_types", None)
    own = getattr(layers[index], "block_type", None)
    if isinstance(own, str):
        return own
    if kinds is not None and index < len(kinds):
        return str(kinds[index])
    return "full_attention"


def is_stateful(decoder: nn.Module, index: int) -> bool:
    """Whether a layer keeps a state instead of a key and a value for each token."""
    return kind_of_layer(decoder, index) in STATEFUL


def attention_of_layer(decoder: nn.Module, index: int) -> nn.Module | None:
    """The attention module of a decoder layer; None where it has none."""
    if kind_of_layer(decoder, index) in (*STATEFUL, *WITHOUT_TOKENS):
        return None
    layers: Any = decoder.layers
    for name in _NAMES:
        module = getattr(layers[index], name, None)
        if isinstance(module, nn.Module):
            return module
    return None


def final_norm(decoder: nn.Module) -> nn.Module:
    """The norm behind the last decoder layer.

    Raises:
        UnsupportedModelError: none is found, or several.
    """
    found = {name: child for name, child in decoder.named_children() if "norm" in name}
    if len(found) != 1 and "norm" not in found:
        raise UnsupportedModelError(
            f"the method reads states behind the decoder's final norm, and "
            f"{type(decoder).__name__} has {', '.join(found) or 'none'}; use states='raw' (dart), "
            "or another method."
        )
    return found["norm"] if "norm" in found else next(iter(found.values()))


def attention_before(decoder: nn.Module, index: int) -> int:
    """The last layer before `index` that attends.

    Raises:
        UnsupportedModelError: there is none.
    """
    for before in range(index - 1, -1, -1):
        if attention_of_layer(decoder, before) is not None:
            return before
    raise UnsupportedModelError(
        f"the method reads attention before layer {index}, and no layer before it has any that "
        "foveate finds; choose a later prune_layer, or a method that reads none."
    )


def check_layer_kinds(kinds: Sequence[str]) -> None:
    """Raise UnsupportedModelError unless every layer is of a kind that can run on fewer tokens.

    Args:
        kinds: of the layers, see `kind_of_layer`.
    """
    for index, kind in enumerate(kinds):
        if kind not in (*ATTENDING, *STATEFUL, *WITHOUT_TOKENS):
            raise UnsupportedModelError(
                f"layer {index} of the decoder is of kind {kind!r}, whose tokens foveate cannot "
                f"drop; it knows {', '.join((*ATTENDING, *STATEFUL, *WITHOUT_TOKENS))}."
            )
