"""A decision over each frame of a video on its own, by whatever decides on images."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from foveate.core.frames import Frames, spread
from foveate.core.plan import KeepPlan
from foveate.core.visual import TOKENS_SECOND, TOKENS_THIRD, VisualTokens
from foveate.errors import MethodError

__all__ = ["by_frame", "frame_images"]

# Plans `keep` tokens of each of some images.
Decide = Callable[[VisualTokens, int], KeepPlan]


def by_frame(decide: Decide, visual: VisualTokens, keep: int) -> KeepPlan:
    """Spread a budget evenly over the frames of videos, and decide on every frame as an image.

    Frames that are given as many of as many tokens are decided on in one call. A frame that is
    given none goes; one that is given all its tokens stays.

    Args:
        visual: G videos with the same frames.
        keep: of each video; see `spread`.

    Returns:
        A plan of the G videos. It has the scores of the frames where all have some.

    Raises:
        MethodError: the frames are not known.
    """
    assert visual.frames is not None
    lengths, starts = visual.frames.lengths, visual.frames.starts
    if not lengths:
        raise MethodError(
            "frames='each' asks for the frames of a video, and where they begin is not known (its "
            "features were made before foveate was attached, or an earlier step chose over the "
            "whole video); pass pixel_values_videos and give frames='each' to every step, or use "
            "frames='joint'."
        )
    shares = spread(keep, lengths)
    alike: dict[tuple[int, int], list[int]] = {}
    for frame, of_frame in enumerate(zip(lengths, shares, strict=True)):
        if of_frame[1]:
            alike.setdefault(of_frame, []).append(frame)
    device, num_videos = visual.hidden.device, visual.num_images
    kept, carried, sources, targets = [], [], [], []
    notes: tuple[tuple[str, str], ...] = ()
    adds, scores = False, _Scores(num_videos, visual.num_tokens)
    for (length, share), members in alike.items():
        first = torch.tensor([starts[frame] for frame in members], device=device)
        if share == length:
            every = (first[:, None] + torch.arange(length, device=device)).flatten()
            kept.append(every.expand(num_videos, -1))
            carried.append(kept[-1])
            continue
        plan = decide(frame_images(visual, members), share)

        def placed(index: Tensor, first: Tensor = first) -> Tensor:  # [G F, k] -> [G, F k]
            return (index.view(num_videos, len(first), -1) + first[:, None]).flatten(1)

        kept.append(placed(plan.keep_idx))
        carried.append(kept[-1] if plan.value_idx is None else placed(plan.value_idx))
        sources.append(placed(plan.merge_src))
        targets.append(placed(plan.merge_dst))
        notes += plan.notes
        adds |= plan.adds
        scores.add(plan.scores, first, length)
    keep_idx, order = torch.cat(kept, dim=1).sort(dim=-1)
    value_idx = torch.cat(carried, dim=1).gather(1, order)
    empty = keep_idx[:, :0]
    return KeepPlan(
        num_tokens=visual.num_tokens,
        keep_idx=keep_idx,
        merge_src=torch.cat([empty, *sources], dim=1),
        merge_dst=torch.cat([empty, *targets], dim=1),
        scores=scores.of_whole_videos(),
        notes=tuple(dict.fromkeys(notes)),
        value_idx=None if all(a is b for a, b in zip(kept, carried, strict=True)) else value_idx,
        adds=adds,
    )


def frame_images(visual: VisualTokens, members: Sequence[int]) -> VisualTokens:
    """Some frames of G videos, equally long, as G * F images: a video's one after the other.

    What seeds randomness differs from frame to frame.
    """
    assert visual.frames is not None
    device, count = visual.hidden.device, len(members)
    starts = [visual.frames.starts[frame] for frame in members]
    length, grid = visual.frames.lengths[members[0]], visual.frames.grid
    if grid is not None and grid[0] * grid[1] != length:  # the last with what ends a video
        grid = None
    places = torch.tensor(starts, device=device)[:, None] + torch.arange(length, device=device)

    def tokens(value: Tensor, dim: int) -> Tensor:  # [G, ..., N, ...] -> [G F, ..., n, ...]
        parts = value.index_select(dim, places.flatten().to(value.device))
        shape = (*value.shape[:dim], count, length, *value.shape[dim + 1 :])
        return parts.view(shape).movedim(dim, 1).flatten(0, 1)

    changes: dict[str, Any] = {}
    for field in fields(visual):
        value = getattr(visual, field.name)
        if not isinstance(value, Tensor):
            continue
        if field.name in TOKENS_SECOND:
            changes[field.name] = tokens(value, 1)
        elif field.name in TOKENS_THIRD:
            changes[field.name] = tokens(value, 2)
        else:  # of the prompt's text
            changes[field.name] = value.repeat_interleave(count, dim=0)
    entering = visual.entering
    if entering is not None:
        assert entering.frames is not None  # as they came in: whole
        entering = frame_images(entering, members)
    return replace(
        visual,
        **changes,
        owners=None,
        grids=(grid,) * (visual.num_images * count),
        serials=tuple(
            zlib.crc32(f"frame {frame} of {serial}".encode())
            for serial in visual.serials
            for frame in members
        ),
        starts=tuple(first + start for first in visual.starts for start in starts),
        entering=entering,
        spent=(),  # the counts of whole videos are settled
        frames=None,
    )


class _Scores:
    """Scores of frames, put together to those of videos, [G, N] each."""

    def __init__(self, num_videos: int, num_tokens: int) -> None:
        self._size = (num_videos, num_tokens)
        self._found: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, scores: dict[str, Tensor], first: Tensor, length: int) -> None:
        """Scores [G F, n] of frames of one length that begin at the places `first` [F]."""
        places = (first[:, None] + torch.arange(length, device=first.device)).flatten()
        for name, score in scores.items():
            if name not in self._found:
                self._found[name] = score.new_zeros(self._size)
            self._found[name][:, places.to(score.device)] = score.reshape(self._size[0], -1)
            self._counts[name] = self._counts.get(name, 0) + len(places)

    def of_whole_videos(self) -> dict[str, Tensor]:
        """Those that every token has."""
        return {n: score for n, score in self._found.items() if self._counts[n] == self._size[1]}


def frames_left(frames: Frames | None, keep: int) -> Frames | None:
    """What `by_frame` leaves of the frames of a video."""
    if frames is None or not frames.lengths:
        return frames
    return Frames(spread(keep, frames.lengths))
