"""What changes from frame to frame of a video: EVS and DTD."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

# Standard deviations of the RGB channels that Qwen-VL's processors divide by (CLIP's).
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def change(video: Tensor) -> Tensor:
    """1 - cos of each token with the one at its place in the frame before; infinite in the first.

    Args:
        video: [T, n, D], frame by frame.

    Returns:
        [T, n] float32.
    """
    x = video.float()
    first = torch.full_like(x[:1, :, 0], torch.inf)
    return torch.cat([first, 1 - cosine_similarity(x[1:], x[:-1], dim=-1)])


def efficient_video_sampling(video: Tensor, keep_ratio: float) -> Tensor:
    """EVS: the first frame whole, then the tokens that changed most, wherever they are.

    Args:
        video: [T, n, D].
        keep_ratio: of all tokens, in (0, 1]; never less than one frame stays.

    Returns:
        [K] int64, ascending places among the T * n tokens; K = max(n, floor(keep_ratio T n)).
    """
    num_frames, per_frame = video.shape[:2]
    keep = max(per_frame, int(keep_ratio * num_frames * per_frame))
    order = change(video).flatten().sort(descending=True, stable=True).indices
    return order[:keep].sort().values


def differential_token_dropping(video: Tensor, threshold: float) -> Tensor:
    """DTD by features (TimeChat-Online): a token goes where it is like its place a frame before.

    The frame before counts whether or not its token was kept, so slow drift is never noticed.

    Args:
        video: [T, n, D].
        threshold: tokens whose cosine is above it go.

    Returns:
        [T, n] bool, True = kept; the first frame is whole.
    """
    return change(video) >= 1 - threshold


def pixel_difference(pixels: Tensor, frames: tuple[int, int, int], merge: int = 2) -> Tensor:
    """Mean |RGB difference| of what each token shows from what its place showed a frame before.

    Qwen-VL's processors put two pictures into a frame: compared are the last of this one and the
    first of the one before.

    Args:
        pixels: [T h w merge^2, 3 * 2 * P * P], normalised, in the order of merged patches.
        frames: (T, h, w) in merged tokens.
        merge: patches a side of a token.

    Returns:
        [T - 1, h w] float32, in [0, 1].
    """
    num_frames, rows, columns = frames
    x = pixels.float().view(num_frames, rows * columns, merge**2, 3, 2, -1)
    std = torch.tensor(CLIP_STD, device=x.device).view(3, 1)
    # The mean that was subtracted cancels.
    difference = (x[1:, ..., 1, :] - x[:-1, ..., 0, :]).abs() * std
    return difference.mean(dim=(2, 3, 4))


def differential_pixel_dropping(
    pixels: Tensor, frames: tuple[int, int, int], threshold: float, merge: int = 2
) -> Tensor:
    """DTD by pixels: a token goes where its picture differs by less than `threshold`.

    Args:
        pixels, frames, merge: see `pixel_difference`.
        threshold: of the mean difference, in [0, 1].

    Returns:
        [T, h w] bool, True = kept; the first frame is whole.
    """
    changed = pixel_difference(pixels, frames, merge) >= threshold
    return torch.cat([torch.ones_like(changed[:1]), changed])
