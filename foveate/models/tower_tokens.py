"""From patches of a vision tower to visual tokens: what each family does behind its tower.

A rule takes values of patches (attention, keys) where the family has features, and gives one value
for each visual token, in the order of the placeholders. Where several patches make a token, it gets
their mean; a token that is no patch (a newline) gets zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.vision_utils import get_vision_window_index

# (base model, arguments of get_*_features, [patches, C] of each sequence) -> [tokens, C]
TokenRule = Callable[[Any, Mapping[str, Any], Sequence[Tensor]], Tensor]


def patch_tokens(base: Any, inputs: Mapping[str, Any], patches: Sequence[Tensor]) -> Tensor:
    """Every patch is a visual token."""
    return torch.cat(list(patches))


def merged_tokens(base: Any, inputs: Mapping[str, Any], patches: Sequence[Tensor]) -> Tensor:
    """Qwen-VL: neighbouring patches, stored one after the other, become one token."""
    group = int(base.config.vision_config.spatial_merge_size) ** 2
    return torch.cat(list(patches)).unflatten(0, (-1, group)).mean(dim=1)


def windowed_tokens(base: Any, inputs: Mapping[str, Any], patches: Sequence[Tensor]) -> Tensor:
    """Qwen2.5-VL: the same, and the tower has sorted the tokens by attention window."""
    grid_thw = inputs.get("image_grid_thw", inputs.get("video_grid_thw"))
    return merged_tokens(base, inputs, patches)[out_of_windows(base.visual, grid_thw)]


def out_of_windows(tower: Any, grid_thw: Any) -> Tensor:
    """Index that brings tokens out of the order of Qwen2.5-VL's windows."""
    windows, _ = get_vision_window_index(
        grid_thw,
        spatial_merge_size=tower.spatial_merge_size,
        window_size=tower.window_size,
        patch_size=tower.patch_size,
    )
    return windows.argsort()


def next_tokens(base: Any, inputs: Mapping[str, Any], patches: Sequence[Tensor]) -> Tensor:
    """LLaVA-NeXT: a base view, then tiles joined, unpadded, with a newline behind each row."""
    from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

    sizes = inputs["image_sizes"]
    counts = [_num_tiles(image_size_to_num_patches, base.config, size) for size in sizes]
    tiles = torch.stack(list(patches))  # [tiles, N, C]
    packed, _ = base.pack_image_features(
        tiles.split(counts),
        sizes,
        vision_feature_select_strategy="default",
        image_newline=tiles.new_zeros(tiles.shape[-1]),
    )
    return torch.cat(packed)


def onevision_tokens(base: Any, inputs: Mapping[str, Any], patches: Sequence[Tensor]) -> Tensor:
    """LLaVA-OneVision: as NeXT, shrunk to a most number of tiles; frames are pooled 2 x 2."""
    tiles = torch.stack(list(patches))
    newline = tiles.new_zeros(tiles.shape[-1])
    if "pixel_values_videos" in inputs:
        num_frames = inputs["pixel_values_videos"].shape[1]
        pooled = base.apply_pooling(tiles)
        videos = pooled.reshape(-1, num_frames * pooled.shape[1], pooled.shape[2])
        ends = newline.expand(len(videos), 1, -1)
        return torch.cat([videos, ends], dim=1).flatten(0, 1)
    from transformers.models.llava_onevision.modeling_llava_onevision import (
        image_size_to_num_patches,
    )

    sizes = inputs["image_sizes"]
    per_sample = inputs.get("batch_num_images")
    # Only the single image of a sample is cut into tiles.
    is_cut = [True] * len(sizes)
    if per_sample is not None:
        is_cut = [n == 1 for n in torch.as_tensor(per_sample).tolist() for _ in range(n)]
    counts = [
        _num_tiles(image_size_to_num_patches, base.config, size) if cut else 1
        for size, cut in zip(sizes, is_cut, strict=True)
    ]
    ratio = inputs.get("vision_aspect_ratio") or base.config.vision_aspect_ratio
    packed, _ = base.pack_image_features(
        tiles.split(counts), sizes, image_newline=newline, vision_aspect_ratio=ratio
    )
    return torch.cat(packed)


def _num_tiles(count: Callable[..., int], config: Any, size: Any) -> int:
    return count(
        image_size=size,
        grid_pinpoints=config.image_grid_pinpoints,
        patch_size=config.vision_config.image_size,
    )


def shuffled_tokens(base: Any, inputs: Mapping[str, Any], patches: Sequence[Tensor]) -> Tensor:
    """SmolVLM, Idefics3: squares of patches are laid side by side in one token."""
    tiles = torch.stack(list(patches))
    scale = int(base.config.scale_factor)
    shuffled = base.connector.pixel_shuffle(tiles, scale)  # [tiles, n, scale^2 * C]
    return _mean_of_blocks(shuffled, tiles.shape[-1])


def unshuffled_tokens(base: Any, inputs: Mapping[str, Any], patches: Sequence[Tensor]) -> Tensor:
    """InternVL: the same, on a grid."""
    tiles = torch.stack(list(patches))
    side = round(tiles.shape[1] ** 0.5)
    grid = tiles.view(len(tiles), side, side, -1)
    shuffled = base.pixel_shuffle(grid, scale_factor=base.config.downsample_ratio)
    return _mean_of_blocks(shuffled.flatten(1, 2), tiles.shape[-1])


def _mean_of_blocks(x: Tensor, width: int) -> Tensor:
    """[tiles, n, blocks * C] -> [tiles * n, C]"""
    return x.unflatten(-1, (-1, width)).mean(dim=-2).flatten(0, 1)


def pooled_tokens(base: Any, inputs: Mapping[str, Any], patches: Sequence[Tensor]) -> Tensor:
    """Gemma 3: squares of patches are averaged."""
    images = torch.stack(list(patches))  # [images, N, C]
    side = round(images.shape[1] ** 0.5)
    grid = images.transpose(1, 2).unflatten(2, (side, side))
    pooled = base.multi_modal_projector.avg_pool(grid)
    return pooled.flatten(2).transpose(1, 2).flatten(0, 1)
