"""LLaVA-1.5, LLaVA-NeXT and LLaVA-OneVision in vLLM, with carved images.

Positions of these models are one-dimensional and contiguous in vLLM, so kept tokens close ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from vllm.model_executor.models.llava import LlavaForConditionalGeneration
from vllm.model_executor.models.llava_next import LlavaNextForConditionalGeneration
from vllm.model_executor.models.llava_onevision import LlavaOnevisionForConditionalGeneration

from foveate.carve.method import Method
from foveate.core.received import last_used_layer
from foveate.vllm.config_hook import method_in
from foveate.vllm.encoder import TowerProbe, of_tokens
from foveate.vllm.processor import carved_processor
from foveate.vllm.selection import carve_item

__all__ = ["CarvedLlava", "CarvedLlavaNext", "CarvedLlavaOnevision"]


class _CarvedTower:
    """Mixed in before vLLM's class: carves each image that its encoder gives."""

    _method: Method | None
    _probe: TowerProbe

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)  # type: ignore[call-arg]
        me: Any = self
        config = me.config
        self._method = method_in(config)
        if self._method is None:
            return
        tower = config.vision_config
        layers = me.vision_tower.vision_model.encoder.layers
        self._has_cls = tower.model_type.startswith("clip")
        used = last_used_layer(
            getattr(config, "vision_feature_layer", None), tower.num_hidden_layers
        )
        self._probe = TowerProbe(
            layers,
            self._method,
            attention="self_attn.attn",
            num_layers=tower.num_hidden_layers,
            used=used,
            num_heads=tower.num_attention_heads,
            has_cls=self._has_cls,
        )

    def embed_multimodal(self, **kwargs: Any) -> Any:
        """As vLLM's, with fewer tokens for each image."""
        embed: Any = super().embed_multimodal  # type: ignore[misc]
        if self._method is None:
            return embed(**kwargs)
        # One image at a time: kernels round differently in batches of different sizes, and what is
        # kept of an image shall not depend on its company.
        num_images = len(kwargs["pixel_values"])
        return [
            self._carved({name: values[i : i + 1] for name, values in kwargs.items()}, embed)
            for i in range(num_images)
        ]

    def _carved(self, image: dict[str, Any], embed: Any) -> Tensor:
        """The kept features of one image, [K, D]."""
        assert self._method is not None
        with self._probe.reading():
            features: Tensor = embed(**image)[0]  # [N, D]
        tower = of_tokens(
            self._probe.take(), int(self._has_cls), lambda x: self._to_tokens(x, image)
        )
        kept, _ = carve_item(
            self._method,
            features,
            width=features.shape[1],
            grid=self._grid(len(features)),
            frames=None,
            **tower,
        )
        return kept

    def _to_tokens(self, patches: Tensor, image: dict[str, Any]) -> Tensor:
        """Values of patches [tiles * S, C] as values of visual tokens [N, C]."""
        return patches

    def _grid(self, num_tokens: int) -> tuple[int, int] | None:
        return None


class _CarvedTiles(_CarvedTower):
    """An image is a base view and tiles, packed as vLLM's class packs features."""

    def _to_tokens(self, patches: Tensor, image: dict[str, Any]) -> Tensor:
        me: Any = self
        pixels: Sequence[Tensor] = image["pixel_values"]
        tiles = patches.view(len(pixels[0]), -1, patches.shape[1])  # [tiles, S, C]
        # Newlines are no patches, and get zero.
        stand_in = SimpleNamespace(config=me.config, image_newline=tiles.new_zeros(tiles.shape[2]))
        pack: Any = type(self)._merge_image_patch_embeddings  # type: ignore[attr-defined]
        packed: Tensor = pack(
            stand_in,
            torch.as_tensor(image["image_sizes"][0]),
            tiles,
            strategy="spatial_unpad",
            **self._packing(stand_in),
        )
        return packed

    def _packing(self, stand_in: SimpleNamespace) -> dict[str, Any]:
        return {}


@carved_processor
class CarvedLlava(_CarvedTower, LlavaForConditionalGeneration):  # type: ignore[misc]
    """LLaVA-1.5: every patch is a visual token."""

    def _grid(self, num_tokens: int) -> tuple[int, int] | None:
        side = round(num_tokens**0.5)
        return (side, side) if side * side == num_tokens else None


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
