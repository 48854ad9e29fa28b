"""VisualTokens: everything a method may look at, for images of one size at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from foveate.core.frames import Frames
from foveate.core.layout import sent

# Fields with one entry for each visual token, by the dimension of these.
TOKENS_SECOND = frozenset(
    {
        "hidden",
        "attention_output",
        "keys",
        "normed",
        "layer_update",
        "vision_attention",
        "vision_received",
        "vision_attention_early",
        "vision_received_early",
        "vision_keys",
        "vision_features",
        "foresight",
        "owners",
    }
)
TOKENS_THIRD = frozenset({"attention", "text_attention"})


@dataclass(frozen=True, kw_only=True)
class VisualTokens:
    """The visual tokens of G images with N tokens each, as they enter the prune layer.

    What a method did not ask for is None.

    Args:
        hidden: [G, N, D], residual stream entering the prune layer (output of the layer before it).
        attention: [G, H, N] float32, softmax attention of the last prompt token of each image's
            sample over its visual tokens, in the layer before the prune layer; for methods that ask
            for "attention_ahead" in the prune layer itself, of all that enters it.
        attention_output: [G, N, D], output of that layer's attention block (after its output
            projection).
        text: [G, T, D], residual stream of the prompt's text tokens behind the image (of all text
            if there is none behind it), entering the same layer.
        text_mask: [G, T] bool, True at real text tokens; comes with `text` and `text_attention`.
        text_attention: [G, T, N] float32, their softmax attention over the visual tokens in the
            layer before the prune layer, mean over heads.
        keys: [G, N, Dk], keys of the layer before the prune layer as its attention takes them,
            heads side by side.
        text_keys: [G, T, Dk], those of the text tokens of `text_mask`.
        normed, text_normed: [G, N, D] and [G, T, D], the residual stream behind the decoder's final
            norm.
        layer_update: [G, N, D], what the layer before the prune layer added to the residual stream.
        vision_attention: [G, N] float32, attention that the vision tower's last used layer gives
            each token: of its CLS token or, without one, of all tokens; mean over heads.
        vision_received: [G, N] float32, attention that each token receives there from all tokens,
            a CLS token among them; mean over heads and queries.
        vision_attention_early, vision_received_early: the same in the earlier layer of the tower
            that the method names, see `Method.early_tower_layer`.
        vision_keys: [G, N, Dk] float32, keys of the last used layer, mean over heads.
        vision_features: [G, N, Dv] float32, what that layer gives, before any norm or projector.
        owners: [G, N] int64, where tokens were merged inside the vision tower: the token that
            stands for each one.
        grids: per image (rows, columns) of the token grid, or None where tokens form no single
            grid, as those of a video.
        frames: of these videos, which all have the same; None for still images.
        serials: per image a number that seeds randomness; for methods that ask for "serials" it
            does not depend on how images were batched.
        counts: tokens that earlier steps of the method left of each of these images, oldest first;
            () at its first.
        starts: per image the place of its first token in its prompt.
        entering: the same images as they entered the first decoder layer, with all their tokens:
            `hidden`, `text`, `text_mask` and `frames`.
        foresight: [G, N] float32, attention over the prompt's visual tokens of its last text row,
            which has read no visual token, in the layer that the method names, see
            `Method.foresight_layer`; mean over heads. All 0 where reading ahead was not worth it.
        spent: per image what reading ahead has cost in the run, in token-layers; () for nothing.
    """

    hidden: Tensor
    attention: Tensor | None = None
    attention_output: Tensor | None = None
    text: Tensor | None = None
    text_mask: Tensor | None = None
    text_attention: Tensor | None = None
    keys: Tensor | None = None
    text_keys: Tensor | None = None
    normed: Tensor | None = None
    text_normed: Tensor | None = None
    layer_update: Tensor | None = None
    vision_attention: Tensor | None = None
    vision_received: Tensor | None = None
    vision_attention_early: Tensor | None = None
    vision_received_early: Tensor | None = None
    vision_keys: Tensor | None = None
    vision_features: Tensor | None = None
    owners: Tensor | None = None
    grids: tuple[tuple[int, int] | None, ...] = ()
    frames: Frames | None = None
    serials: tuple[int, ...] = ()
    counts: tuple[int, ...] = ()
    starts: tuple[int, ...] = ()
    entering: VisualTokens | None = None
    foresight: Tensor | None = None
    spent: tuple[float, ...] = ()

    @property
    def num_images(self) -> int:
        return int(self.hidden.shape[0])

    @property
    def num_tokens(self) -> int:
        return int(self.hidden.shape[1])

    def take(self, images: Sequence[int]) -> VisualTokens:
        """Some of the images, in that order."""
        index = torch.as_tensor(images, dtype=torch.long)
        changes: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                value = value[sent(index, value.device)]
            elif isinstance(value, VisualTokens):
                value = value.take(images)
            elif isinstance(value, tuple) and value and field.name != "counts":
                value = tuple(value[i] for i in index.tolist())
            changes[field.name] = value
        return VisualTokens(**changes)

    def tokens(self, index: Tensor) -> VisualTokens:
        """Some tokens of each image, `index` [G, K] ascending; they form no grid any more."""

        def of(value: Tensor) -> Tensor:  # [G, N, D] or [G, N]
            at = index.unsqueeze(-1).expand(-1, -1, value.shape[2]) if value.ndim == 3 else index
            return value.gather(1, at.to(value.device))

        changes: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None:
                continue
            if field.name in TOKENS_SECOND:
                changes[field.name] = of(value)
            elif field.name in TOKENS_THIRD:  # [G, H or T, N]
                changes[field.name] = of(value.transpose(1, 2)).transpose(1, 2)
        changes["owners"] = None
        return replace(
            self,
            **changes,
            grids=(None,) * self.num_images,
            frames=None if self.frames is None else Frames(),
        )
