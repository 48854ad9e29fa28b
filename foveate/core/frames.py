"""Frames of a video: how many tokens each has, and how a budget is spread over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from foveate.errors import MethodError

__all__ = ["Frames", "spread"]


@dataclass(frozen=True)
class Frames:
    """How the tokens of a video stand, frame behind frame.

    Args:
        lengths: tokens of each frame, in order; () where nobody knows: features were made before
            foveate was attached, or an earlier step chose over the whole video. A last frame that
            is longer ends with tokens that are none of its grid (LLaVA-OneVision's newline).
        grid: (rows, columns) of every frame, None where they form no grid.
    """

    lengths: tuple[int, ...] = ()
    grid: tuple[int, int] | None = None

    @classmethod
    def equal(cls, count: int, num_tokens: int, grid: tuple[int, int] | None = None) -> Frames:
        """`count` frames of as many tokens each; what is left over ends the last."""
        each, more = divmod(num_tokens, count)
        return cls((each,) * (count - 1) + (each + more,), grid)

    @property
    def starts(self) -> tuple[int, ...]:
        """Place of the first token of each frame."""
        return (0, *accumulate(self.lengths))[: len(self.lengths)]

    def whole(self, method: str) -> tuple[int, int, int]:
        """(frames, tokens of each, tokens behind the last), for methods that compare frames.

        Args:
            method: its name.

        Raises:
            MethodError: the frames are not known, or not of one size.
        """
        if not self.lengths:
            raise MethodError(
                f"{method} compares whole frames, and where those of this video begin is not "
                "known (its features were made before foveate was attached, or an earlier step "
                "took tokens of it); pass pixel_values_videos, and let no method cut before it."
            )
        each, last = self.lengths[0], self.lengths[-1]
        if set(self.lengths[:-1]) - {each} or last < each:
            raise MethodError(
                f"{method} compares whole frames, and those of this video have "
                f"{min(self.lengths)} to {max(self.lengths)} tokens; use frames of one size."
            )
        return len(self.lengths), each, last - each


def spread(keep: int, lengths: Sequence[int]) -> tuple[int, ...]:
    """`keep` tokens over frames of these lengths: as evenly as they can hold, exactly in sum.

    What does not divide goes to frames that are evenly spaced in time.

    Raises:
        ValueError: the frames have fewer tokens than that.

    Example:
        >>> spread(10, [4, 4, 4, 4])
        (2, 3, 2, 3)
        >>> spread(7, [1, 4, 4])
        (1, 3, 3)
    """
    if keep > sum(lengths):
        raise ValueError(f"keep={keep} exceeds the {sum(lengths)} tokens of all frames")
    given = [0] * len(lengths)
    left = keep
    while left:
        free = [frame for frame, length in enumerate(lengths) if given[frame] < length]
        each = min(left // len(free), min(lengths[frame] - given[frame] for frame in free))
        if each:
            chosen = free
        else:  # fewer than there are frames: at the centres of as many equal spans
            chosen = [free[(2 * i + 1) * len(free) // (2 * left)] for i in range(left)]
        for frame in chosen:
            given[frame] += each or 1
        left -= (each or 1) * len(chosen)
    return tuple(given)
