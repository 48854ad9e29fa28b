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
from foveate.vllm.budgets import budget_field, read_budgets, with_budget
from foveate.vllm.config_hook import method_in, served_in
from foveate.vllm.encoder import TowerProbe, alike, of_tokens
from foveate.vllm.processor import carved_processor
from foveate.vllm.selection import carve_items

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
        served = served_in(config)
        assert served is not None
        self._alone = served.alone
        self._most_tokens = int(vllm_config.scheduler_config.max_num_batched_tokens)
        tower = config.vision_config
        self._patch_size = int(tower.patch_size)
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
        budgets = read_budgets(kwargs.pop(budget_field("image")))
        pixels: Sequence[Tensor] = kwargs["pixel_values"]
        sizes = kwargs.get("image_sizes")
        keys = [
            (image.shape, None if sizes is None else tuple(sizes[i].tolist()), budgets[i])
            for i, image in enumerate(pixels)
        ]
        found: dict[int, Tensor] = {}
        for group in alike(keys, lambda i: self._at_once(pixels[i])):
            images = {name: _chosen(values, group) for name, values in kwargs.items()}
            kept = self._carved(images, with_budget(self._method, budgets[group[0]]), embed)
            found.update(zip(group, kept, strict=True))
        return [found[i] for i in range(len(pixels))]

    def _at_once(self, pixels: Tensor) -> int:
        """Images like this one that the tower is given at once: as many as without compression."""
        patches = pixels[..., 0, :, :].numel() // self._patch_size**2
        return 1 if self._alone else self._most_tokens // patches

    def _carved(self, images: dict[str, Any], method: Method, embed: Any) -> Tensor:
        """The kept features of images of one size, [G, K, D]."""
        with self._probe.reading():
            features = torch.stack(list(embed(**images)))  # [G, N, D]
        tower = of_tokens(
            self._probe.take(),
            int(self._has_cls),
            len(features),
            lambda x: self._to_tokens(x, images),
        )
        kept, _ = carve_items(
            method,
            features,
            width=features.shape[2],
            grid=self._grid(features.shape[1]),
            frames=None,
            **tower,
        )
        return kept

    def _to_tokens(self, patches: Tensor, images: dict[str, Any]) -> Tensor:
        """Values of an image's patches [tiles * S, C] as values of its visual tokens [N, C].

        Args:
            images: it, and others of its size.
        """
        return patches

    def _grid(self, num_tokens: int) -> tuple[int, int] | None:
        return None


def _chosen(values: Any, items: Sequence[int]) -> Any:
    """A batched input of some images of one size."""
    if isinstance(values, Tensor):
        return values[list(items)]
    return torch.stack([torch.as_tensor(values[i]) for i in items])


class _CarvedTiles(_CarvedTower):
    """An image is a base view and tiles, packed as vLLM's class packs features."""

    def _to_tokens(self, patches: Tensor, images: dict[str, Any]) -> Tensor:
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
