"""What methods may ask to be shown beside the hidden states of visual tokens."""

from __future__ import annotations

from typing import Any, Literal

from foveate.core.relevance import RELEVANCE_NEEDS, Relevance
from foveate.errors import MethodError

Need = Literal[
    "attention",
    "attention_ahead",
    "attention_output",
    "entering",
    "foresight",
    "keys",
    "layer_update",
    "normed",
    "serials",
    "text",
    "text_attention",
    "vision_attention",
    "vision_attention_early",
    "vision_features",
    "vision_keys",
    "vision_received",
    "vision_received_early",
]

# Read off the decoder layer before the prune layer.
LAYER_NEEDS: frozenset[Need] = frozenset(
    {"attention", "attention_output", "keys", "text_attention"}
)

# Read off a layer of the vision tower that the method names.
EARLY_NEEDS: frozenset[Need] = frozenset({"vision_attention_early", "vision_received_early"})

# The attention of the last prompt token, of the layer before or of that about to run.
OF_THE_LAST: frozenset[Need] = frozenset({"attention", "attention_ahead"})


def relevance_needs(kind: Relevance) -> frozenset[Need]:
    """What reading the relevance of that kind takes, see `core.relevance`.

    Raises:
        MethodError: an unknown kind.
    """
    if kind not in RELEVANCE_NEEDS:
        raise MethodError(
            f"relevance={kind!r} is unknown; use one of {', '.join(RELEVANCE_NEEDS)}."
        )
    need: Any = RELEVANCE_NEEDS[kind]
    return frozenset({need})
