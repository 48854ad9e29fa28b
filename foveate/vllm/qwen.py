"""Qwen2-VL, Qwen2.5-VL, Qwen3-VL, Qwen3.5 and GLM-4V in vLLM, with carved images and videos.

Kept tokens stay at their three-dimensional positions, see `positions`: features leave the encoder
with their places in extra columns, and vLLM calls `recompute_mrope_positions` as they go on to the
language model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from vllm.model_executor.models.glm4_1v import Glm4vForConditionalGeneration
from vllm.model_executor.models.qwen2_5_vl import Qwen2_5_VLForConditionalGeneration
from vllm.model_executor.models.qwen2_vl import Qwen2VLForConditionalGeneration
from vllm.model_executor.models.qwen3_5 import Qwen3_5ForConditionalGeneration
from vllm.model_executor.models.qwen3_vl import Qwen3VLForConditionalGeneration

from foveate.carve.method import Method
from foveate.core.budget import Budget
from foveate.core.frames import Frames
from foveate.vllm.budgets import budget_field, read_budgets, with_budget
from foveate.vllm.carved_tower import encoder_graphs_off
from foveate.vllm.config_hook import method_in, served_in
from foveate.vllm.encoder import TowerProbe, alike, of_tokens
from foveate.vllm.positions import (
    Media,
    grid_places,
    place_tokens,
    prompt_positions,
    split_places,
    with_places,
)
from foveate.vllm.processor import carved_processor
from foveate.vllm.selection import carve_items

__all__ = ["CarvedGlm4v", "CarvedQwen2VL", "CarvedQwen2_5_VL", "CarvedQwen3VL", "CarvedQwen3_5"]


class _CarvedGrid:
    """Mixed in before vLLM's class: carves each image, a grid of tokens, and video, of frames."""

    supports_multimodal_pruning = True
    _method: Method | None
    _of_videos: Method | None

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)  # type: ignore[call-arg]
        me: Any = self
        self._method = method_in(me.config)
        self._of_videos = method_in(me.config, "video")
        if self._method is None:
            me.supports_multimodal_pruning = getattr(super(), "supports_multimodal_pruning", False)
            return
        served = served_in(me.config)
        assert served is not None
        self._alone = served.alone
        self._most_tokens = int(vllm_config.scheduler_config.max_num_batched_tokens)
        tower = me.config.vision_config
        self._merge = int(tower.spatial_merge_size)
        self._width = int(me.config.get_text_config().hidden_size)
        self._probe = TowerProbe(
            me.visual.blocks,
            self._method,
            attention="attn.attn",
            num_layers=len(me.visual.blocks),
            used=len(me.visual.blocks) - 1,
            num_heads=tower.num_heads,
            has_cls=False,
            sequence_first=True,
        )

    # --- encoder ---

    def embed_multimodal(self, **kwargs: Any) -> Any:
        """As vLLM's, with fewer tokens for each item, and their places in extra columns."""
        if self._method is None:
            return super().embed_multimodal(**kwargs)  # type: ignore[misc]
        me: Any = self
        if "image_grid_thw" in kwargs:
            parse, encode = me._parse_and_validate_image_input, me._process_image_input
            kind, pixels = "image", "pixel_values"
        else:
            parse, encode = me._parse_and_validate_video_input, me._process_video_input
            kind, pixels = "video", "pixel_values_videos"
        grids = kwargs[f"{kind}_grid_thw"]
        patches = kwargs[pixels].split(grids.prod(dim=-1).tolist())
        seconds = kwargs.get("second_per_grid_ts")
        budgets = read_budgets(kwargs[budget_field(kind)])
        sizes: list[tuple[int, ...]] = [tuple(grid) for grid in grids.tolist()]
        keys = [
            (sizes[i], budget, None if seconds is None else float(seconds[i]))
            for i, budget in enumerate(budgets)
        ]
        found: dict[int, Tensor] = {}
        for group in alike(keys, lambda i: self._at_once(sizes[i])):
            item = {
                pixels: torch.cat([patches[i] for i in group]),
                f"{kind}_grid_thw": grids[group],
            }
            if seconds is not None:
                item["second_per_grid_ts"] = seconds[group]
            with self._probe.reading():
                features = torch.stack(list(encode(parse(**item))))  # [G, N, C]
            kept = self._carved(features, kind, item, budgets[group[0]])
            found.update(zip(group, kept, strict=True))
        return tuple(found[i] for i in range(len(sizes)))

    def _at_once(self, grid_thw: Sequence[int]) -> int:
        """Items like this one that the tower is given at once: as many as without compression."""
        return 1 if self._alone else self._most_tokens // math.prod(self._tokens(grid_thw))

    def _carved(
        self, features: Tensor, kind: str, item: Mapping[str, Any], budget: Budget
    ) -> list[Tensor]:
        """The kept features of each item of one size and their places, [K, C + NUM_COLUMNS]."""
        grid_thw = item[f"{kind}_grid_thw"][0].tolist()
        frames, rows, columns = self._tokens(grid_thw)
        tower = of_tokens(
            self._probe.take(), 0, len(features), lambda x: self._to_tokens(x, grid_thw)
        )
        is_video = kind == "video"
        method = self._of_videos if is_video else self._method
        assert method is not None
        kept, places = carve_items(
            with_budget(method, budget),
            features,
            width=self._width,
            grid=None if is_video else (rows, columns),
            frames=Frames((rows * columns,) * frames, (rows, columns)) if is_video else None,
            **tower,
        )
        per_frame = self._per_frame(item) if is_video else 1.0
        every = grid_places(frames, rows, columns, per_frame).to(places.device)
        return [with_places(x, every[at]) for x, at in zip(kept, places, strict=True)]

    def _to_tokens(self, patches: Tensor, grid_thw: Sequence[int]) -> Tensor:
        """Values of patches [S, C] as values of visual tokens [N, C]: neighbours are merged."""
        return patches.view(-1, self._merge**2, patches.shape[1]).mean(dim=1)

    def _tokens(self, grid_thw: Sequence[int]) -> tuple[int, int, int]:
        frames, height, width = grid_thw
        return frames, height // self._merge, width // self._merge

    def _per_frame(self, item: Mapping[str, Any]) -> float:
        """Positions from one frame to the next, as vLLM's `iter_mm_grid_thw` has it."""
        me: Any = self
        seconds = item.get("second_per_grid_ts")
        per_second = getattr(me.config.vision_config, "tokens_per_second", 1.0)
        return float(per_second) * (float(seconds[0]) if seconds is not None else 1.0)

    def get_encoder_cudagraph_config(self) -> Any:
        """A recorded graph would go past `embed_multimodal`."""
        config = super().get_encoder_cudagraph_config()  # type: ignore[misc]
        return config if self._method is None else encoder_graphs_off(config)

    # --- positions ---

    def get_mrope_input_positions(
        self, input_tokens: list[int], mm_features: list[Any]
    ) -> tuple[Tensor, int]:
        """[3, N] positions of a prompt, and what to add for later ones."""
        if self._method is None:
            return super().get_mrope_input_positions(input_tokens, mm_features)  # type: ignore[misc]
        media = []
        for feature in sorted(mm_features, key=lambda f: f.mm_position.offset):
            grid_thw = feature.data[f"{feature.modality}_grid_thw"].data.tolist()
            frames, rows, columns = self._tokens(grid_thw)
            per_frame = 1.0
            if feature.modality == "video":
                seconds = feature.data.get("second_per_grid_ts")
                item = {} if seconds is None else {"second_per_grid_ts": seconds.data.reshape(1)}
                per_frame = self._per_frame(item)
            extent = max(int((frames - 1) * per_frame) + 1, rows, columns)
            position = feature.mm_position
            media.append(Media(position.offset, position.length, extent))
        return prompt_positions(len(input_tokens), media)

    def recompute_mrope_positions(
        self,
        input_ids: list[int] | Tensor,
        multimodal_embeddings: Sequence[Tensor],
        mrope_positions: Tensor,
        num_computed_tokens: int,
    ) -> tuple[Sequence[Tensor], Tensor, int]:
        """Features without their places, positions with these tokens in theirs, what to add later.

        Args:
            input_ids: [N], the prompt.
            multimodal_embeddings: rows of the items in this chunk of it, in order.
            mrope_positions: [3, N].
            num_computed_tokens: tokens of the prompt before the chunk.
        """
        me: Any = self
        if self._method is None:
            found: tuple[Sequence[Tensor], Tensor, int]
            found = super().recompute_mrope_positions(  # type: ignore[misc]
                input_ids=input_ids,
                multimodal_embeddings=multimodal_embeddings,
                mrope_positions=mrope_positions,
                num_computed_tokens=num_computed_tokens,
            )
            return found
        parts = [split_places(rows) for rows in multimodal_embeddings]
        if parts:
            ids = torch.as_tensor(input_ids, device=mrope_positions.device)
            is_media = (ids == me.config.image_token_id) | (ids == me.config.video_token_id)
            numbers = torch.cat([numbers for _, numbers in parts])
            mrope_positions = place_tokens(mrope_positions, is_media, numbers, num_computed_tokens)
        # A prompt ends with text (see `processor`), which has the largest position.
        later = int(mrope_positions[0, -1]) + 1 - mrope_positions.shape[1]
        return [features for features, _ in parts], mrope_positions, later


@carved_processor
class CarvedQwen2VL(_CarvedGrid, Qwen2VLForConditionalGeneration):  # type: ignore[misc]
    """Qwen2-VL."""


@carved_processor
class CarvedQwen2_5_VL(  # noqa: N801
    _CarvedGrid,
    Qwen2_5_VLForConditionalGeneration,  # type: ignore[misc]
):
    """Qwen2.5-VL: the tower sorts tokens by attention window, and sorts its features back."""

    def _to_tokens(self, patches: Tensor, grid_thw: Sequence[int]) -> Tensor:
        me: Any = self
        windows, _ = me.visual.get_window_index_thw(*grid_thw)
        merged = super()._to_tokens(patches, grid_thw)
        return merged[windows.argsort().to(merged.device)]


@carved_processor
class CarvedQwen3VL(_CarvedGrid, Qwen3VLForConditionalGeneration):  # type: ignore[misc]
    """Qwen3-VL: features for deeper layers lie beside each token's, and are carved with it."""


@carved_processor
class CarvedQwen3_5(_CarvedGrid, Qwen3_5ForConditionalGeneration):  # type: ignore[misc]  # noqa: N801
    """Qwen3.5, whose decoder has state layers: dropped tokens never enter the states."""


@carved_processor
class CarvedGlm4v(_CarvedGrid, Glm4vForConditionalGeneration):  # type: ignore[misc]
    """GLM-4V: neighbours are merged by a convolution."""
