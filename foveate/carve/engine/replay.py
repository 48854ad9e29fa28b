"""Generation without a cache: a prompt is fed again, longer, and its decisions are applied again.

Selection belongs to the prompt: deciding anew at each step would read another last token. And what
a compact cache would have cut must stay hidden from the tokens generated after it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from foveate.carve.engine.call import Call
from foveate.carve.engine.decide import Group
from foveate.carve.engine.layer_inputs import LayerInputs
from foveate.carve.method import Step
from foveate.models.masks import hide_columns


class Replay:
    """Decisions on a prompt that is fed again, longer, at every step.

    Args:
        call: that brought the prompt.
        groups: what was decided on it, by layer.
    """

    def __init__(self, call: Call, groups: dict[int, list[Group]]) -> None:
        self.groups = groups
        self._ids: Tensor | None = call.inputs.get("input_ids")
        self._visual_mask = call.visual
        self._features = _features(call.inputs)
        self._next_length = call.length + 1

    def continued_by(self, call: Call) -> Call | None:
        """A call that goes on with this prompt, its new tokens known to be text; None if not."""
        ids = call.inputs.get("input_ids")
        if self._ids is None or ids is None or call.cache is not None:
            return None
        if len(ids) != len(self._ids) or ids.shape[1] < self._next_length:
            return None
        if not _same(_features(call.inputs), self._features):
            return None
        # Beams only move within a sample, and its rows share one prompt and one plan.
        prompt_length = self._ids.shape[1]
        if not bool((ids[:, :prompt_length] == self._ids).all()):
            return None
        visual_mask = F.pad(self._visual_mask, (0, ids.shape[1] - prompt_length))
        return call.showing(visual_mask)

    @property
    def has_ids(self) -> bool:
        """Whether the prompt came as token ids, so that it can be told when it comes again."""
        return self._ids is not None

    def advance(self, call: Call) -> None:
        """The decisions were applied to a call: the next one is longer."""
        self._next_length = call.length + 1

    def hide(
        self, index: int, mask: Any, call: Call, steps: Mapping[int, Step], inputs: LayerInputs
    ) -> Any:
        """A layer's mask without what later steps cut out of its cache, for the tokens generated.

        Args:
            index: of the layer.
            mask: its mask.
            call: that is replayed.
            steps: of the run, by layer.
            inputs: of the pass.

        Returns:
            `mask` itself where nothing is to be hidden.
        """
        later = [
            layer
            for layer, step in steps.items()
            if layer > index and step.method.early_cache == "compact"
        ]
        if not later:
            return mask
        columns = inputs.remember(
            ("dropped", min(later)), None, lambda: self._dropped(later, call.visual)
        )
        assert self._ids is not None
        first_row = self._ids.shape[1]
        return inputs.remember(
            ("hidden", id(mask), id(columns)),
            (mask, columns),
            lambda: hide_columns(mask, columns, first_row, inputs.kernel),
        )

    def _dropped(self, layers: list[int], visual_mask: Tensor) -> Tensor:
        """Columns that the steps at `layers` drop, [B, S] bool."""
        dropped = torch.zeros_like(visual_mask)
        for layer in layers:
            for group in self.groups.get(layer, ()):
                dropped[group.samples, group.tokens] = True
                kept = group.tokens.gather(1, group.plan.keep_idx)
                dropped[group.samples, kept] = False
        return dropped


def _features(inputs: Mapping[str, Any]) -> list[Any]:
    """The objects that hold this call's images."""
    encoded = inputs.get("mm_encoder_outputs") or {}
    return [
        value
        for value in (
            inputs.get("pixel_values"),
            inputs.get("pixel_values_videos"),
            inputs.get("image_embeds"),
            *encoded.values(),
        )
        if value is not None
    ]


def _same(a: list[Any], b: list[Any]) -> bool:
    return len(a) == len(b) and all(map(_is_same, a, b))


def _is_same(a: Any, b: Any) -> bool:
    # Kosmos-2.5 makes the features of its images anew for every token, and callers may wrap theirs.
    if a is b:
        return True
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.equal(a, b)
    a, b = getattr(a, "pooler_output", None), getattr(b, "pooler_output", None)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return _same(list(a), list(b))
    return a is not None and b is not None and _is_same(a, b)
