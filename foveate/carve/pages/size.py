"""Which page suits a vision-language model: sizes its image processor shows without rescaling."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from foveate.errors import InputError

MOST_PX = 896  # side of a page where the processor allows any size
USUAL_PX = 448  # where it says nothing at all


@dataclass(frozen=True)
class PageSize:
    """A page for one model.

    Args:
        width, height: px.
        cell_px: side of the square that one visual token stands for, px.
        crop_px: a lower last page must be a multiple of this; None where every page costs the same.
        least_px: and at least so high.
    """

    width: int
    height: int
    cell_px: float
    crop_px: int | None = None
    least_px: int = 1


def page_size(
    processor: Any,
    tokens_of: Callable[[tuple[int, int]], float],
    wanted: tuple[int, int] | None = None,
) -> PageSize:
    """The size that shows most pixels per visual token, among those the processor does not rescale.

    Args:
        processor: of a vision-language model.
        tokens_of: visual tokens that this processor makes of a page of (width, height) px.
        wanted: take this (width, height) instead.

    Raises:
        InputError: `wanted` is no size.
    """
    images = getattr(processor, "image_processor", processor)
    if wanted is not None and min(wanted) < 1:
        raise InputError(f"page size {wanted[0]} x {wanted[1]} is no size; use e.g. 448 x 448.")
    sizes = [wanted] if wanted is not None else _candidates(images)
    tokens = {size: max(1.0, tokens_of(size)) for size in sizes}
    # More pixels in as many tokens were shrunk: LLaVA-OneVision tiles no page among several.
    plain = [s for s in sizes if not any(tokens[s] == tokens[t] and s > t for t in sizes)]
    best = max(plain, key=lambda size: size[0] * size[1] / tokens[size])  # the first of equals
    area = best[0] * best[1] / tokens[best]
    crop, least = None, 1
    cell, tile = _cell(images), _tile(images)
    if cell is not None and best[1] % cell == 0:
        # Pixels of the whole picture, not a side: a lower page must still have so many.
        crop, least = cell, math.ceil((_read(images, "shortest_edge") or 1) / best[0])
    elif tile is not None and best[1] % tile == 0 and best[0] == _read(images, "longest_edge"):
        crop = tile  # a lower page of this width is not rescaled, and has fewer rows of tiles
    return PageSize(*best, cell_px=math.sqrt(area), crop_px=crop, least_px=least)


def _candidates(images: Any) -> list[tuple[int, int]]:
    """(width, height) of pictures that pass unchanged, the plainest first."""
    edge = _read(images, "longest_edge")
    cell = _cell(images)
    if cell is not None:
        # Qwen-VL: longest_edge is the most pixels of a picture, any multiple of a cell passes.
        side = min(MOST_PX, math.isqrt(int(edge or MOST_PX**2)))
        return [(max(1, side // cell) * cell,) * 2]
    sizes: list[tuple[int, int]] = []
    crop = getattr(images, "crop_size", None)
    if getattr(images, "do_center_crop", False) and crop and _of(crop, "width"):
        sizes.append((int(_of(crop, "width") or 0), int(_of(crop, "height") or 0)))
    elif _read(images, "height") and _read(images, "width"):
        sizes.append((int(_read(images, "width") or 0), int(_read(images, "height") or 0)))
    pinpoints = getattr(images, "image_grid_pinpoints", None)
    if pinpoints:
        # Pinpoints are (height, width); larger ones than four tiles would fill any window.
        base = sizes[0] if sizes else (USUAL_PX, USUAL_PX)
        fit = [(w, h) for h, w in pinpoints if w * h <= 4 * base[0] * base[1]]
        sizes += [max(fit, key=lambda size: (size[0] * size[1], -abs(size[0] - size[1])))] * bool(
            fit
        )
    if getattr(images, "max_image_size", None):
        # Idefics3, SmolVLM: pictures are scaled to longest_edge, then cut into tiles.
        side = edge if _tile(images) else _of(images.max_image_size, "longest_edge")
        sizes.append((int(side or USUAL_PX),) * 2)
    if not sizes:
        side = _read(images, "shortest_edge") or edge or USUAL_PX
        sizes.append((int(side),) * 2)
    return sizes


def _cell(images: Any) -> int | None:
    """Side of a visual token in px, where pictures of any size are cut into whole tokens."""
    merge, patch = getattr(images, "merge_size", None), getattr(images, "patch_size", None)
    return int(merge) * int(patch) if merge and isinstance(patch, int) else None


def _tile(images: Any) -> int | None:
    """Side of a tile in px, where pictures are scaled to one length and cut into tiles."""
    size = _of(getattr(images, "max_image_size", None), "longest_edge")
    return int(size) if size and getattr(images, "do_image_splitting", True) else None


def _read(images: Any, key: str) -> float | None:
    return _of(getattr(images, "size", None), key)


def _of(size: Any, key: str) -> float | None:
    value = size.get(key) if isinstance(size, Mapping) else getattr(size, key, None)
    return None if value is None else float(value)
