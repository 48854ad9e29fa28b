"""Gemma 3, Idefics3, SmolVLM and InternVL in vLLM, with carved images.

An image is one or more views of one size. InternVL puts the tokens of all views side by side, and
they are carved as one. The others have text between views, whose place in the prompt is fixed
before anything is known of the image; there the budget is spread evenly over the views.

Positions are one-dimensional, and kept tokens close ranks.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor
from vllm.model_executor.models.gemma3_mm import Gemma3ForConditionalGeneration
from vllm.model_executor.models.idefics3 import Idefics3ForConditionalGeneration
from vllm.model_executor.models.interns1 import InternS1ForConditionalGeneration
from vllm.model_executor.models.smolvlm import SmolVLMForConditionalGeneration

from foveate.core.frames import Frames
from foveate.vllm.carved_tower import CarvedTower, square
from foveate.vllm.processor import carved_processor

__all__ = ["CarvedGemma3", "CarvedIdefics3", "CarvedInternVL", "CarvedSmolVLM"]


class _CarvedViews(CarvedTower):
    """Mixed in before vLLM's class; views of all images lie one behind the other.

    Class attributes:
        num_views: input with the number of each image's views.
        of_views: inputs with an entry a view.
        shared: inputs that are the same for all images.
    """

    num_views: ClassVar[str] = "num_patches"
    of_views: ClassVar[tuple[str, ...]] = ("pixel_values",)
    shared: ClassVar[tuple[str, ...]] = ()

    def _keys(self, inputs: Mapping[str, Any]) -> list[Hashable]:
        return [int(num) for num in inputs[self.num_views]]

    def _at_once(self, inputs: Mapping[str, Any], image: int) -> int:
        num_views = int(inputs[self.num_views][image])
        return self._fit(num_views * math.prod(inputs["pixel_values"].shape[-2:]))

    def _gather(self, inputs: Mapping[str, Any], images: Sequence[int]) -> dict[str, Any]:
        counts = [int(num) for num in inputs[self.num_views]]
        views = [v for i in images for v in range(sum(counts[:i]), sum(counts[: i + 1]))]
        return {
            name: values[views]
            if name in self.of_views
            else values
            if name in self.shared
            else values[list(images)]
            for name, values in inputs.items()
        }

    def _views(self, num_tokens: int, images: Mapping[str, Any]) -> Frames | None:
        count = int(images[self.num_views][0])
        return None if count == 1 else Frames((num_tokens // count,) * count)


@carved_processor
class CarvedGemma3(_CarvedViews, Gemma3ForConditionalGeneration):  # type: ignore[misc]
    """Gemma 3: squares of patches are averaged to a token."""

    def _to_tokens(self, patches: Tensor, images: Mapping[str, Any]) -> Tensor:
        me: Any = self
        side = me.multi_modal_projector.patches_per_image
        views = patches.view(-1, side, side, patches.shape[1]).permute(0, 3, 1, 2)
        pooled: Tensor = me.multi_modal_projector.avg_pool(views)  # [views, C, rows, columns]
        return pooled.flatten(2).transpose(1, 2).flatten(0, 1)

    def _grid(self, num_tokens: int) -> tuple[int, int] | None:
        return square(num_tokens)


class _CarvedIdefics3(_CarvedViews):
    """The connector lays squares of patches side by side in a token."""

    layers_path = "model.vision_model.encoder.layers"
    of_views = ("pixel_values", "pixel_attention_mask")

    def _to_tokens(self, patches: Tensor, images: Mapping[str, Any]) -> Tensor:
        me: Any = self
        num_views, width = len(images["pixel_values"]) // len(images["num_patches"]), patches.shape
        views = patches.view(num_views, -1, width[1])
        scale = int(me.config.scale_factor)
        shuffled: Tensor = me.model.connector.pixel_shuffle(views, scale)
        return _mean_of_blocks(shuffled, width[1])


@carved_processor
class CarvedIdefics3(_CarvedIdefics3, Idefics3ForConditionalGeneration):  # type: ignore[misc]
    """Idefics3."""


@carved_processor
class CarvedSmolVLM(_CarvedIdefics3, SmolVLMForConditionalGeneration):  # type: ignore[misc]
    """SmolVLM."""


@carved_processor
class CarvedInternVL(_CarvedViews, InternS1ForConditionalGeneration):  # type: ignore[misc]
    """InternVL and Intern-S1, in transformers' format."""

    layers_path = "vision_tower.encoder.layer"
    attention_path = "attention.attn"
    num_views = "image_num_patches"
    shared = ("image_token_id",)

    def _leading_tokens(self) -> int:
        return 1  # CLS

    def _to_tokens(self, patches: Tensor, images: Mapping[str, Any]) -> Tensor:
        me: Any = self
        num_views, width = int(images[self.num_views][0]), patches.shape[1]
        side = round((len(patches) // num_views) ** 0.5)
        views = patches.view(num_views, side, side, width)
        shuffled: Tensor = me.pixel_shuffle(views, scale_factor=me.downsample_ratio)
        return _mean_of_blocks(shuffled.flatten(1, 2), width)

    def _views(self, num_tokens: int, images: Mapping[str, Any]) -> Frames | None:
        return None  # side by side


def _mean_of_blocks(x: Tensor, width: int) -> Tensor:
    """[views, n, blocks * C] -> [views * n, C]"""
    return x.view(*x.shape[:-1], -1, width).mean(dim=-2).flatten(0, 1)
