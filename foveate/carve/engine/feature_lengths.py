"""How many visual tokens each item in the output of a feature extractor has."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from foveate.errors import UnsupportedModelError


def feature_lengths(output: Any) -> list[int]:
    """Visual tokens of each item in the output of get_image_features / get_video_features.

    Raises:
        UnsupportedModelError: the output has a form that is not known.
    """
    features = _features(output)
    if isinstance(features, Tensor):  # [items, tokens, D] or [tokens, D]
        if features.ndim == 3:
            return [features.shape[1]] * features.shape[0]
        return [int(features.shape[:-1].numel())]
    if isinstance(features, (list, tuple)):
        return [int(item.shape[:-1].numel()) for item in features]
    raise UnsupportedModelError(
        f"the model's features are a {type(output).__name__} of unknown form; foveate cannot count "
        "their tokens."
    )


def is_flat(output: Any) -> bool:
    """Whether all items stand in one tensor [tokens, D], so that their own lengths are unknown."""
    features = _features(output)
    return isinstance(features, Tensor) and features.ndim == 2


def _features(output: Any) -> Any:
    """A tensor of all features, or a sequence of one tensor an item."""
    if isinstance(output, (Tensor, list, tuple)) and not hasattr(output, "keys"):
        return output
    for name in ("pooler_output", "last_hidden_state"):
        found = getattr(output, name, None)
        if found is not None:
            return found
    # Granite 4 Vision adds everything to decoder layers: pairs (layer, one tensor an item).
    deepstack = getattr(output, "deepstack_features", None)
    if deepstack:
        first = deepstack[0]
        return first[1] if isinstance(first, tuple) else first
    return None
