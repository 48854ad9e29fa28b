"""LLaVA-1.5, LLaVA-NeXT and LLaVA-OneVision in vLLM, with carved images.

Positions of these models are one-dimensional and contiguous in vLLM, so kept tokens close ranks.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from vllm.model_executor.models.llava import LlavaForConditionalGeneration
from vllm.model_executor.models.llava_next import LlavaNextForConditionalGeneration
from vllm.model_executor.models.llava_onevision import LlavaOnevisionForConditionalGeneration

from foveate.vllm.carved_tower import CarvedTower, square
from foveate.vllm.processor import carved_processor

__all__ = ["CarvedLlava", "CarvedLlavaNext", "CarvedLlavaOnevision"]


class _CarvedLlavas(CarvedTower):
    """Mixed in before vLLM's class; every input has one entry an image."""

    def _keys(self, inputs: Mapping[str, Any]) -> list[Hashable]:
        sizes = inputs.get("image_sizes")
        return [
            (pixels.shape, None if sizes is None else tuple(sizes[i].tolist()))
            for i, pixels in enumerate(inputs["pixel_values"])
        ]

    def _at_once(self, inputs: Mapping[str, Any], image: int) -> int:
        return self._fit(inputs["pixel_values"][image][..., 0, :, :].numel())

    def _gather(self, inputs: Mapping[str, Any], images: Sequence[int]) -> dict[str, Any]:
        return {
            name: torch.stack([torch.as_tensor(values[i]) for i in images])
            for name, values in inputs.items()
        }


class _CarvedTiles(_CarvedLlavas):
    """An image is a base view and tiles, packed as vLLM's class packs features."""

    def _to_tokens(self, patches: Tensor, images: Mapping[str, Any]) -> Tensor:
        me: Any = self
        pixels: Sequence[Tensor] = images["pixel_values"]
        tiles = patches.view(len(pixels[0]), -1, patches.shape[1])  # [tiles, S, C]
        # Newlines are no patches, and get zero.
        stand_in = SimpleNamespace(config=me.config, image_newline=tiles.new_zeros(tiles.shape[2]))
        pack: Any = type(self)._merge_image_patch_embeddings  # type: ignore[attr-defined]
        packed: Tensor = pack(
            stand_in,
            torch.as_tensor(images["image_sizes"][0]),
            tiles,
            strategy="spatial_unpad",
            **self._packing(stand_in),
        )
        return packed

    def _packing(self, stand_in: SimpleNamespace) -> dict[str, Any]:
        return {}


@carved_processor
class CarvedLlava(_CarvedLlavas, LlavaForConditionalGeneration):  # type: ignore[misc]
    """LLaVA-1.5: every patch is a visual token."""

    def _grid(self, num_tokens: int) -> tuple[int, int] | None:
        return square(num_tokens)


@carved_processor
class CarvedLlavaNext(_CarvedTiles, LlavaNextForConditionalGeneration):  # type: ignore[misc]
    """LLaVA-NeXT."""


@carved_processor
class CarvedLlavaOnevision(
    _CarvedTiles,
    LlavaOnevisionForConditionalGeneration,  # type: ignore[misc]
):
    """LLaVA-OneVision; images only, see `config_hook`."""

    def _packing(self, stand_in: SimpleNamespace) -> dict[str, Any]:
        return {"image_newline": stand_in.image_newline}
