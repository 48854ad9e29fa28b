"""Which part of an image a processor shows to the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Box = tuple[float, float, float, float]


def seen_box(processor: Any, size: tuple[int, int]) -> Box:
    """(left, top, right, bottom) of what the model sees of an image of `size` (width, height) px.

    CLIP-style processors scale the shorter edge and cut out the centre; all others show everything.
    """
    width, height = size
    whole = (0.0, 0.0, float(width), float(height))
    images = getattr(processor, "image_processor", processor)
    resize, crop = getattr(images, "size", None), getattr(images, "crop_size", None)
    if not getattr(images, "do_center_crop", False) or not crop or not resize:
        return whole
    shortest = _get(resize, "shortest_edge")
    if shortest is None:
        return whole
    scale = shortest / min(width, height)
    crop_width = min(float(width), (_get(crop, "width") or shortest) / scale)
    crop_height = min(float(height), (_get(crop, "height") or shortest) / scale)
    left, top = (width - crop_width) / 2, (height - crop_height) / 2
    return (left, top, left + crop_width, top + crop_height)


def _get(size: Any, key: str) -> float | None:
    value = size.get(key) if isinstance(size, Mapping) else getattr(size, key, None)
    return None if value is None else float(value)
