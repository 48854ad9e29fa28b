"""Which decoder layers attend, which keep a state instead, and where a layer's attention is."""

from __future__ import annotations

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


class DecoderLayers:
    """What is known of a decoder's layers, looked at once: modules take their time to tell.

    Args:
        decoder: holds `.layers`.

    Attributes:
        kinds: of each, see `kind_of_layer`.
        attentions: the attention module of each, None where it has none.
        stateful: those that keep a state instead of a key and a value for each token.
        indexed: those that find the keys that their queries look at themselves.
        counting: those that scale attention by the place of a token, which they count themselves.
    """

    def __init__(self, decoder: nn.Module) -> None:
        layers: Any = decoder.layers
        every = range(len(layers))
        self.kinds = tuple(kind_of_layer(decoder, i) for i in every)
        self.attentions = tuple(attention_of_layer(decoder, i) for i in every)
        self.stateful = frozenset(i for i in every if self.kinds[i] in STATEFUL)
        self.indexed = self._with("indexer")
        self.counting = self._with("attn_temperature_tuning")

    def _with(self, name: str) -> frozenset[int]:
        """Layers whose attention has something."""
        return frozenset(i for i, own in enumerate(self.attentions) if getattr(own, name, None))


def check_layer_kinds(layers: DecoderLayers) -> None:
    """Raise UnsupportedModelError unless every layer is of a kind that can run on fewer tokens."""
    for index, kind in enumerate(layers.kinds):
        if kind not in (*ATTENDING, *STATEFUL, *WITHOUT_TOKENS):
            raise UnsupportedModelError(
                f"layer {index} of the decoder is of kind {kind!r}, whose tokens foveate cannot "
                f"drop; it knows {', '.join((*ATTENDING, *STATEFUL, *WITHOUT_TOKENS))}."
            )
