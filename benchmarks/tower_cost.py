"""FLOPs of the vision models of Qwen2.5-VL and Qwen3-VL where patches are left out."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import Qwen2_5_VLConfig, Qwen3VLConfig
from transformers.vision_utils import get_vision_window_index

__all__ = ["QWEN2_5", "QWEN3", "tower_flops"]

_Vision2_5: Any = Qwen2_5_VLConfig.sub_configs["vision_config"]
_Vision3: Any = Qwen3VLConfig.sub_configs["vision_config"]
QWEN2_5 = _Vision2_5(hidden_size=1280, out_hidden_size=3584)  # of the 7B
QWEN3 = _Vision3(out_hidden_size=4096)  # of the 8B


def tower_flops(config: Any, grids: Tensor, stays: Tensor | None = None) -> int:
    """FLOPs of a vision model, two a multiply-add; norms, softmax and activations left out.

    Layers run on the patches that stay, the patch embedding and all mergers on every patch.

    Args:
        config: of the vision model.
        grids: [I, 3] frames, rows and columns of patches.
        stays: [N] bool of the tokens in reading order; None for all.
    """
    side = config.spatial_merge_size
    group, width = side**2, config.hidden_size
    num_patches = int(grids.prod(dim=1).sum())
    num_tokens = num_patches // group
    frames = (grids[:, 1] * grids[:, 2] // group).repeat_interleave(grids[:, 0]).tolist()
    counts, windows = frames, None
    if stays is not None:
        counts = [int(part.sum()) for part in stays.split(frames)]
    full = set(getattr(config, "fullatt_block_indexes", range(config.depth)))
    if len(full) < config.depth:
        index, bounds = get_vision_window_index(grids, side, config.window_size, config.patch_size)
        sizes = (bounds.diff() // group).tolist()
        windows = sizes
        if stays is not None:
            windows = [int(part.sum()) for part in stays[index].split(sizes)]
    is_gated = hasattr(config, "fullatt_block_indexes")
    per_patch = width * (4 * width + (3 if is_gated else 2) * config.intermediate_size)
    total = 0
    for layer in range(config.depth):
        seen = counts if layer in full or windows is None else windows
        total += sum(group * n * per_patch + 2 * (group * n) ** 2 * width for n in seen)
    pixels = config.in_channels * config.temporal_patch_size * config.patch_size**2
    mergers = 1 + len(getattr(config, "deepstack_visual_indexes", ()))
    wide = group * width
    total += num_patches * pixels * width
    total += mergers * num_tokens * wide * (wide + config.out_hidden_size)
    return 2 * total
