"""What model classes have in common whose images go through one tower and positions close ranks."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from foveate.carve.method import Method
from foveate.core.frames import Frames
from foveate.core.received import last_used_layer
from foveate.vllm.budgets import budget_field, read_budgets, with_budget
from foveate.vllm.config_hook import method_in, served_in
from foveate.vllm.encoder import TowerProbe, alike, of_tokens
from foveate.vllm.selection import carve_items

__all__ = ["CarvedTower", "encoder_graphs_off"]

logger = logging.getLogger("vllm.foveate")


class CarvedTower:
    """Mixed in before vLLM's class: carves each image that its encoder gives.

    Class attributes:
        layers_path: from the model to the layers of its tower.
        attention_path: from a layer to vLLM's MMEncoderAttention in it.
    """

    layers_path: ClassVar[str] = "vision_tower.vision_model.encoder.layers"
    attention_path: ClassVar[str] = "self_attn.attn"
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
        self._patch_size = side_of(tower.patch_size)
        self._skip = self._leading_tokens()
        used = last_used_layer(
            getattr(config, "vision_feature_layer", None), tower.num_hidden_layers
        )
        self._probe = TowerProbe(
            me.get_submodule(self.layers_path),
            self._method,
            attention=self.attention_path,
            num_layers=tower.num_hidden_layers,
            used=used,
            num_heads=tower.num_attention_heads,
            has_cls=self._skip > 0,
        )

    def _leading_tokens(self) -> int:
        """Tokens of a sequence in the tower before its patches."""
        me: Any = self
        return int(me.config.vision_config.model_type.startswith("clip"))

    def embed_multimodal(self, **kwargs: Any) -> Any:
        """As vLLM's, with fewer tokens for each image."""
        embed: Any = super().embed_multimodal  # type: ignore[misc]
        if self._method is None:
            return embed(**kwargs)
        budgets = read_budgets(kwargs.pop(budget_field("image")))
        keys = zip(self._keys(kwargs), budgets, strict=True)
        found: dict[int, Tensor] = {}
        for group in alike(keys, lambda image: self._at_once(kwargs, image)):
            images = self._gather(kwargs, group)
            kept = self._carved(images, with_budget(self._method, budgets[group[0]]), embed)
            found.update(zip(group, kept, strict=True))
        return [found[i] for i in range(len(budgets))]

    def get_encoder_cudagraph_config(self) -> Any:
        """A recorded graph would go past `embed_multimodal`."""
        config = super().get_encoder_cudagraph_config()  # type: ignore[misc]
        return config if self._method is None else encoder_graphs_off(config)

    def _carved(self, images: Mapping[str, Any], method: Method, embed: Any) -> Tensor:
        """The kept features of images of one size, [G, K, D]."""
        with self._probe.reading():
            features = torch.stack(list(embed(**images)))  # [G, N, D]
        num_images, num_tokens, width = features.shape
        tower = of_tokens(
            self._probe.take(), self._skip, num_images, lambda x: self._to_tokens(x, images)
        )
        if method.count(num_tokens) == num_tokens:
            return features
        views = self._views(num_tokens, images)
        kept, _ = carve_items(
            method if views is None else replace(method, frames="each"),
            features,
            width=width,
            grid=self._grid(num_tokens) if views is None else None,
            frames=views,
            **tower,
        )
        return kept

    def _fit(self, num_pixels: int) -> int:
        """Images of so many pixels for the tower at once: no more than without carving."""
        patches = num_pixels // self._patch_size**2
        return 1 if self._alone else self._most_tokens // max(1, patches)

    # --- of a family ---

    def _keys(self, inputs: Mapping[str, Any]) -> list[Hashable]:
        """What must be the same of images that go through the tower together."""
        raise NotImplementedError

    def _at_once(self, inputs: Mapping[str, Any], image: int) -> int:
        """Images like this one that the tower is given at once."""
        raise NotImplementedError

    def _gather(self, inputs: Mapping[str, Any], images: Sequence[int]) -> dict[str, Any]:
        """The inputs of some images of one size."""
        raise NotImplementedError

    def _views(self, num_tokens: int, images: Mapping[str, Any]) -> Frames | None:
        """Parts of each image that are carved by themselves; None for one."""
        return None

    def _to_tokens(self, patches: Tensor, images: Mapping[str, Any]) -> Tensor:
        """Values of an image's patches [tiles * S, C] as values of its visual tokens [N, C].

        Args:
            images: it, and others of its size.
        """
        return patches

    def _grid(self, num_tokens: int) -> tuple[int, int] | None:
        """Rows and columns of an image's tokens."""
        return None


def encoder_graphs_off(config: Any) -> Any:
    """vLLM's account of which modalities a recorded graph can encode, with none in it."""
    if config.modalities:
        logger.info(
            "foveate: the vision tower runs without recorded graphs: they would give the features "
            "of all tokens past the place where images are carved"
        )
    return replace(config, modalities=[])


def side_of(size: Any) -> int:
    """Of a square that a configuration may give as two numbers."""
    return int(size[0] if isinstance(size, (list, tuple)) else size)


def square(num_tokens: int) -> tuple[int, int] | None:
    """The grid of a square image."""
    side = round(num_tokens**0.5)
    return (side, side) if side * side == num_tokens else None
