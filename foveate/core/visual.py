"""VisualTokens: everything a method may look at, for images of one size at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from foveate.core.layout import sent


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
            grid.
        serials: per image a number that seeds randomness; for methods that ask for "serials" it
            does not depend on how images were batched.
        counts: tokens that earlier steps of the run left of each of these images, oldest first;
            () at the first.
        starts: per image the place of its first token in its prompt.
        entering: the same images as they entered the first decoder layer, with all their tokens:
            `hidden`, `text` and `text_mask`.
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
            elif value and field.name != "counts":
                value = tuple(value[i] for i in index.tolist())
            changes[field.name] = value
        return VisualTokens(**changes)

    def tokens(self, index: Tensor) -> VisualTokens:
        """Some tokens of each image, `index` [G, K] ascending; they form no grid any more."""

        def of(value: Tensor | None) -> Tensor | None:  # [G, N, D] or [G, N]
            if value is None:
                return None
            at = index.unsqueeze(-1).expand(-1, -1, value.shape[2]) if value.ndim == 3 else index
            return value.gather(1, at.to(value.device))

        def of_last(value: Tensor | None) -> Tensor | None:  # [G, H or T, N]
            return of(value.transpose(1, 2)).transpose(1, 2) if value is not None else None  # type: ignore[union-attr]

        hidden = of(self.hidden)
        assert hidden is not None
        return replace(
            self,
            hidden=hidden,
            attention=of_last(self.attention),
            attention_output=of(self.attention_output),
            text_attention=of_last(self.text_attention),
            keys=of(self.keys),
            normed=of(self.normed),
            layer_update=of(self.layer_update),
            vision_attention=of(self.vision_attention),
            vision_received=of(self.vision_received),
            vision_attention_early=of(self.vision_attention_early),
            vision_received_early=of(self.vision_received_early),
            vision_keys=of(self.vision_keys),
            vision_features=of(self.vision_features),
            foresight=of(self.foresight),
            owners=None,
            grids=(None,) * self.num_images,
        )
