"""Rules that tell images and videos apart in what a model's feature extractors return."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from foveate.core.frames import Frames
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
    """(frames, height, width) in patches, merged spatially.

    What merges is looked up in the configuration, and believed only if the tokens add up to those
    that there are; else every feature item is an image.
    """
    shapes = _shapes(config, inputs, sum(lengths))
    if shapes is None:
        return one_per_item(config, inputs, lengths)
    return [
        Unit(rows * columns, (rows, columns)) if frames == 1 else _of_frames(frames, rows, columns)
        for frames, rows, columns in shapes
    ]


def videos(config: Any, inputs: Mapping[str, Any], lengths: Sequence[int]) -> list[Unit]:
    """Every feature item is a video, or a frame of a clip: its frames by grids, clips or counts.

    Where none of them fits, nobody knows where a frame begins.
    """
    shapes = _shapes(config, inputs, sum(lengths))
    if shapes is not None:
        return [_of_frames(*shape) for shape in shapes]
    clips, counts = inputs.get("pixel_values_videos"), inputs.get("num_frames_per_video")
    if isinstance(clips, Tensor) and clips.ndim == 5:
        num_frames = clips.shape[1]
        if len(lengths) == clips.shape[:2].numel() != clips.shape[0]:  # an item is a frame
            whole = [tuple(lengths[i : i + num_frames]) for i in range(0, len(lengths), num_frames)]
            return [Unit(sum(own), None, Frames(own, square(own[0]))) for own in whole]
        counts = [num_frames] * len(lengths)
    counts = [0] * len(lengths) if counts is None or len(counts) != len(lengths) else counts
    units = []
    for n, count in zip(lengths, map(int, counts), strict=True):
        is_even = count > 0 and n % count == 0
        frames = Frames.equal(count, n, square(n // count)) if is_even else Frames()
        units.append(Unit(n, None, frames))
    return units


def _of_frames(frames: int, rows: int, columns: int) -> Unit:
    size = frames * rows * columns
    return Unit(size, None, Frames.equal(frames, size, (rows, columns)))


def pooled_frames(config: Any, inputs: Mapping[str, Any], lengths: Sequence[int]) -> list[Unit]:
    """LLaVA-OneVision video: equal frames, then one newline token that goes to the last frame."""
    num_frames = inputs["pixel_values_videos"].shape[1]
    return [
        Unit(n, None, Frames.equal(num_frames, n, square((n - 1) // num_frames))) for n in lengths
    ]


def from_image_sizes(config: Any, inputs: Mapping[str, Any], lengths: Sequence[int]) -> list[Unit]:
    """Pixtral tower: the grid follows from the image size in pixels."""
    cell = config.vision_config.patch_size * getattr(config, "spatial_merge_size", 1)
    grids = [(h // cell, w // cell) for h, w in torch.as_tensor(inputs["image_sizes"]).tolist()]
    return [
        Unit(n, grid if grid[0] * grid[1] == n else None)
        for n, grid in zip(lengths, grids, strict=True)
    ]


def _shapes(
    config: Any, inputs: Mapping[str, Any], num_tokens: int
) -> list[tuple[int, int, int]] | None:
    """Frames, rows and columns of every item, in tokens; None where they do not add up."""
    grids = _grids(inputs)
    for merge in _merges(config) if grids is not None else ():
        shapes = [(t, height // merge, width // merge) for t, height, width in grids or ()]
        if sum(t * rows * columns for t, rows, columns in shapes) == num_tokens:
            return shapes
    return None


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
