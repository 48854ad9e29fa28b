"""Rules that tell images and video frames apart in what a model's feature extractors return."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from foveate.models.family import Unit

# Where configurations say how many patches on a side become one visual token.
_MERGES = ("spatial_merge_size", "merge_size", "downsample_factor", "merge_kernel_size")


def square(num_tokens: int) -> tuple[int, int] | None:
    """The square grid of `num_tokens`, or None if there is none."""
    side = math.isqrt(num_tokens)
    return (side, side) if side * side == num_tokens else None


def one_per_item(config: Any, inputs: Mapping[str, Any], lengths: Sequence[int]) -> list[Unit]:
    """Every feature item is an image; square ones have a grid."""
    return [Unit(n, square(n)) for n in lengths]


def gridless_items(config: Any, inputs: Mapping[str, Any], lengths: Sequence[int]) -> list[Unit]:
    """Every feature item is an image made of a base view and tiles: no single grid."""
    return [Unit(n) for n in lengths]


def from_grids(config: Any, inputs: Mapping[str, Any], lengths: Sequence[int]) -> list[Unit]:
    """(frames, height, width) in patches, merged spatially; one unit a video frame.

    What merges is looked up in the configuration, and believed only if the tokens add up to those
    that there are; else every feature item is an image.
    """
    total = sum(lengths)
    rows = _grids(inputs)
    for merge in _merges(config) if rows is not None else ():
        units = []
        for frames, height, width in rows or ():
            grid = (height // merge, width // merge)
            units += [Unit(grid[0] * grid[1], grid)] * frames
        if sum(unit.num_tokens for unit in units) == total:
            return units
    return one_per_item(config, inputs, lengths)


def pooled_frames(config: Any, inputs: Mapping[str, Any], lengths: Sequence[int]) -> list[Unit]:
    """LLaVA-OneVision video: equal frames, then one newline token that goes to the last frame."""
    num_frames = inputs["pixel_values_videos"].shape[1]
    units = []
    for length in lengths:
        per_frame = (length - 1) // num_frames
        frame = Unit(per_frame, square(per_frame))
        units += [frame] * (num_frames - 1) + [Unit(length - per_frame * (num_frames - 1))]
    return units


def from_image_sizes(config: Any, inputs: Mapping[str, Any], lengths: Sequence[int]) -> list[Unit]:
    """Pixtral tower: the grid follows from the image size in pixels."""
    cell = config.vision_config.patch_size * getattr(config, "spatial_merge_size", 1)
    grids = [(h // cell, w // cell) for h, w in torch.as_tensor(inputs["image_sizes"]).tolist()]
    return [
        Unit(n, grid if grid[0] * grid[1] == n else None)
        for n, grid in zip(lengths, grids, strict=True)
    ]


def _grids(inputs: Mapping[str, Any]) -> list[list[int]] | None:
    """Frames, height and width of every item, from whichever argument has them."""
    for name, value in inputs.items():
        if "grid" not in name or value is None:
            continue
        table = value if isinstance(value, Tensor) else torch.as_tensor(value)
        if table.ndim == 2 and table.shape[1] in (2, 3) and not table.is_floating_point():
            return [([1, *row])[-3:] for row in table.tolist()]
    return None


def _merges(config: Any) -> list[int]:
    """How many patches on a side may become a token, likeliest first."""
    found: list[int] = []
    for part in (getattr(config, "vision_config", None), config):
        for name in _MERGES:
            value = getattr(part, name, None)
            if isinstance(value, (list, tuple)) and len(set(value)) == 1:
                value = value[0]
            if isinstance(value, int) and value > 0:
                found.append(value)
    return list(dict.fromkeys([*found, 1, 2, 4]))
