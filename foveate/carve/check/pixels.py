"""Pictures and videos of noise for a twin, in the form that its feature extractor asks for."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from foveate.models.family import Modality

# number of the item -> arguments of get_*_features for it; items are joined along the first axis
Maker = Callable[[int], dict[str, Tensor]]

_IMAGE_NAMES = ("pixel_values", "image_grid_thw")
_VIDEO_NAMES = ("pixel_values_videos", "video_grid_thw")
_GRIDS = ((1, 4, 4), (1, 2, 6), (1, 4, 2))
_CLIPS = ((2, 4, 4), (3, 2, 4))
_FRAMES = 4  # of a clip that is shown frame by frame
_SIZES = ((32, 24), (16, 32), (32, 32))


def makers(twin: Any, modality: Modality) -> list[Maker]:
    """Ways to make the twin's inputs, likeliest first; which is right shows when it is called.

    Args:
        twin: a tiny model.
        modality: "image" or "video".
    """
    extract = getattr(twin.base_model, f"get_{modality}_features", None)
    if extract is None or "qformer_input_ids" in inspect.signature(extract).parameters:
        return [functools.partial(_of_host, twin, video=modality == "video")]
    takes = inspect.signature(extract).parameters
    if modality == "video":
        ways: list[Any] = [_patches, _clips] if "video_grid_thw" in takes else [_clips]
        if "video_merge_sizes" in takes:
            ways = [_merge_sizes]
        return [functools.partial(way, twin, video=True) for way in ways]
    ways = [_square]
    if "image_merge_sizes" in takes:
        ways = [_merge_sizes]
    elif "image_grid_thw" in takes:
        ways = [_patches, _patches_of_a_moment, _patches_of_pixels]
    elif "image_grid_hw" in takes:
        ways = [_patches_hw]
    elif "target_sizes" in takes:
        ways = [_strips]
    elif "spatial_shapes" in takes:
        ways = [_shaped]
    elif "image_sizes" in takes:
        ways = [_pixtral, _of_one_size, _square]
        if getattr(twin.config, "image_grid_pinpoints", None):
            ways = [_tiles]
    elif "pixel_attention_mask" in takes:
        ways = [_packed, _packed_by_tile]
    elif "high_res_pixel_values" in takes:
        ways = [_two_resolutions]
    elif "image_position_ids" in takes:
        ways = [_positioned]
    else:
        ways = [_square, _flat_patches, _tiled_square]
    return [functools.partial(way, twin) for way in ways]


def joined(items: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Several items as one batch of arguments."""
    axes = {"pixel_values": 0}
    if not items:
        return {}
    if "target_sizes" in items[0]:
        axes["pixel_values"] = -1  # strips of patches stand side by side
    return {
        name: torch.cat([item[name] for item in items], dim=axes.get(name, 0)) for name in items[0]
    }


def noise(*shape: int, item: int = 0) -> Tensor:
    """Normal noise [*shape], a little brighter for every item."""
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator) + 0.1 * item


def _vision(twin: Any) -> Any:
    config = twin.config
    return getattr(config, "vision_config", None) or getattr(config, "vq_config", None) or config


def _number(value: Any, otherwise: int) -> int:
    if isinstance(value, (list, tuple)):
        value = value[0]
    return value if isinstance(value, int) and value > 0 else otherwise


def _first(config: Any, *names: str, otherwise: int) -> int:
    """The first of these entries that is a number."""
    numbers = (_number(getattr(config, name, None), 0) for name in names)
    return next((number for number in numbers if number), otherwise)


def _side(twin: Any) -> int:
    return _number(getattr(_vision(twin), "image_size", None), 24)


def _patch(twin: Any) -> int:
    return _number(getattr(_vision(twin), "patch_size", None), 4)


def _merge(twin: Any) -> int:
    names = ("spatial_merge_size", "merge_size", "merge_kernel_size", "downsample_factor")
    for part in (_vision(twin), twin.config):
        for name in names:
            if (value := _number(getattr(part, name, None), 0)) > 0:
                return value
    return 2


def _grid(twin: Any, item: int, video: bool) -> Tensor:
    shapes = _CLIPS if video else _GRIDS
    frames, height, width = shapes[item % len(shapes)]
    merge = _merge(twin)
    return torch.tensor([[frames, height // 2 * merge, width // 2 * merge]])


def _square(twin: Any, item: int) -> dict[str, Tensor]:
    side = _side(twin)
    return {"pixel_values": noise(1, 3, side, side, item=item)}


def _tiled_square(twin: Any, item: int) -> dict[str, Tensor]:
    side = _side(twin)
    return {"pixel_values": noise(1, 1, 3, side, side, item=item)}


def _patches(twin: Any, item: int, video: bool = False) -> dict[str, Tensor]:
    grid = _grid(twin, item, video)
    vision = _vision(twin)
    depth = _first(vision, "temporal_patch_size", "patch_temporal", otherwise=1)
    channels = _first(vision, "in_channels", "num_channels", otherwise=3)
    width = channels * depth * _patch(twin) ** 2
    names = (
        ("pixel_values_videos", "video_grid_thw") if video else ("pixel_values", "image_grid_thw")
    )
    return {names[0]: noise(int(grid.prod()), width, item=item), names[1]: grid}


def _patches_of_a_moment(twin: Any, item: int) -> dict[str, Tensor]:
    grid = _grid(twin, item, False)
    pixels = noise(int(grid.prod()), 3 * _patch(twin) ** 2, item=item)
    return {"pixel_values": pixels, "image_grid_thw": grid}


def _patches_of_pixels(twin: Any, item: int) -> dict[str, Tensor]:
    grid, side = _grid(twin, item, False), _patch(twin)
    return {
        "pixel_values": noise(int(grid.prod()), 3, side, side, item=item),
        "image_grid_thw": grid,
    }


def _patches_hw(twin: Any, item: int) -> dict[str, Tensor]:
    grid = _grid(twin, item, False)
    return {
        "pixel_values": noise(int(grid.prod()), 3 * _patch(twin) ** 2, item=item),
        "image_grid_hw": grid[:, 1:],
    }


def _merge_sizes(twin: Any, item: int, video: bool = False) -> dict[str, Tensor]:
    name = "video_merge_sizes" if video else "image_merge_sizes"
    grid = _grid(twin, item, video)
    names = (
        ("pixel_values_videos", "video_grid_thw") if video else ("pixel_values", "image_grid_thw")
    )
    pixels = noise(int(grid.prod()), 3 * _patch(twin) ** 2, item=item)
    return {names[0]: pixels, names[1]: grid, name: torch.tensor([2])}


def _strips(twin: Any, item: int) -> dict[str, Tensor]:
    side = _patch(twin)
    return {
        "pixel_values": noise(1, 3, side, side * 64, item=item),
        "target_sizes": torch.tensor([[8, 8]]),
    }


def _shaped(twin: Any, item: int) -> dict[str, Tensor]:
    height, width = ((4, 4), (2, 8), (4, 2))[item % 3]
    count, most = height * width, 16
    pixels = torch.zeros(1, most, 3 * _patch(twin) ** 2)
    pixels[:, :count] = noise(1, count, pixels.shape[-1], item=item)
    return {
        "pixel_values": pixels,
        "spatial_shapes": torch.tensor([[height, width]]),
        "pixel_attention_mask": (torch.arange(most) < count).long()[None],
    }


def _pixtral(twin: Any, item: int) -> dict[str, Tensor]:
    size = torch.tensor([_SIZES[item % 3]])
    return {"pixel_values": noise(1, 3, 32, 32, item=item), "image_sizes": size}


def _of_one_size(twin: Any, item: int) -> dict[str, Tensor]:
    return {
        "pixel_values": noise(1, 3, 16, 16, item=item),
        "image_sizes": torch.tensor([[16, 16]]),
    }


def _tiles(twin: Any, item: int) -> dict[str, Tensor]:
    side = _side(twin)
    ratio = ((1.0, 2.0), (5 / 3, 1.0), (2.0, 2.0))[item % 3]
    size = torch.tensor([[int(side * ratio[0]), int(side * ratio[1])]])
    return {"pixel_values": noise(1, 5, 3, side, side, item=item), "image_sizes": size}


def _packed(twin: Any, item: int) -> dict[str, Tensor]:
    side = _side(twin)
    mask = torch.ones(1, 1, side, side, dtype=torch.bool)
    return {"pixel_values": noise(1, 1, 3, side, side, item=item), "pixel_attention_mask": mask}


def _packed_by_tile(twin: Any, item: int) -> dict[str, Tensor]:
    side = _side(twin)
    mask = torch.ones(1, 1, dtype=torch.bool)
    return {"pixel_values": noise(1, 1, 3, side, side, item=item), "pixel_attention_mask": mask}


def _two_resolutions(twin: Any, item: int) -> dict[str, Tensor]:
    high = _number(getattr(twin.config.high_res_vision_config, "image_size", None), 32)
    return {**_square(twin, item), "high_res_pixel_values": noise(1, 3, high, high, item=item)}


def _flat_patches(twin: Any, item: int) -> dict[str, Tensor]:
    return {"pixel_values": noise(1, 9, 3 * _patch(twin) ** 2, item=item)}


def _positioned(twin: Any, item: int) -> dict[str, Tensor]:
    side = 6
    places = torch.cartesian_prod(torch.arange(side), torch.arange(side)).flip(-1)
    pixels = noise(1, side * side, 3 * _patch(twin) ** 2, item=item)
    return {"pixel_values": pixels, "image_position_ids": places[None]}


def _of_host(twin: Any, item: int, video: bool) -> dict[str, Tensor]:
    """What the forward of a model around a language model takes for an image."""
    takes = inspect.signature(type(twin).forward).parameters
    side, frames = _side(twin), (_FRAMES,) if video else ()
    made: dict[str, Tensor] = {}
    if "pixel_values" in takes:
        made["pixel_values"] = noise(1, *frames, 3, side, side, item=item)
    if "flattened_patches" in takes:  # row and column of each, then its pixels
        places = torch.cartesian_prod(torch.arange(1, 4), torch.arange(1, 4)).float()
        pixels = noise(1, len(places), 3 * _patch(twin) ** 2, item=item)
        made["flattened_patches"] = torch.cat([places[None], pixels], dim=-1)
    if "qformer_input_ids" in takes:
        made["qformer_input_ids"] = torch.tensor([[5, 6 + item, 7]])
    return made


def _clips(twin: Any, item: int, video: bool = True) -> dict[str, Tensor]:
    side = _side(twin)
    return {"pixel_values_videos": noise(1, 3, 3, side, side, item=item)}
