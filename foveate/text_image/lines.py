"""Where lines break: from the widths of the characters alone, so that nothing is drawn twice."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["MAX_CHARS_PER_PIXEL", "break_lines"]

# Marks without width could make a line of any length; beyond this many characters it breaks.
MAX_CHARS_PER_PIXEL = 2


def break_lines(
    advance: npt.NDArray[np.intp],
    spaces: npt.NDArray[np.bool_],
    forced: npt.NDArray[np.bool_],
    *,
    width: int,
    wrap: float,
    hang: bool = False,
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Fill lines greedily with whole characters.

    A line that overflows breaks after the last space of its end (the share `wrap` of the width),
    else before the first character that does not fit. Marks without width stay with the glyph
    before them. Where a line ends depends on its characters and the two after it, no others, so a
    text can be broken piece by piece.

    Args:
        advance: pixels of each character [C], none above width.
        spaces: True [C] where a line may break after the character.
        forced: True [C] where a line must end after the character.
        width: pixels of a line.
        wrap: share of the line, at its end, in which a space is looked for.
        hang: spaces that no longer fit stay at the end of the line and take no pixels, so that no
            line begins with the space before its first word.

    Returns:
        The first character of each line, intp [lines], and the pixels of each character [C] as
        they are now.
    """
    num = len(advance)
    ends = np.cumsum(advance)
    allowed = spaces.copy()
    # A mark on a space keeps the space.
    allowed[:-1] &= advance[1:] > 0
    breaks, stops = np.flatnonzero(allowed), np.flatnonzero(forced)
    reach = width - int(wrap * width)
    starts: list[int] = []
    hanging: list[npt.NDArray[np.intp]] = []
    start = 0
    while start < num:
        starts.append(start)
        origin = int(ends[start - 1]) if start else 0
        stop = int(np.searchsorted(ends, origin + width, side="right"))
        longest = start + MAX_CHARS_PER_PIXEL * width
        place = int(np.searchsorted(stops, start))
        if place < len(stops) and stops[place] < min(stop, longest):
            stop = int(stops[place]) + 1
        elif longest < stop or stop == num:
            stop = min(stop, longest)
        elif hang and spaces[stop]:
            end = stop
            while end < min(num, longest) and spaces[end] and not forced[end]:
                end += 1
            hanging.append(np.arange(stop, end))
            while end < min(num, longest) and advance[end] == 0:
                end += 1
                if forced[end - 1]:
                    break
            stop = end
        elif not allowed[stop]:
            place = int(np.searchsorted(breaks, stop)) - 1
            if place >= 0 and breaks[place] >= start:
                after = int(breaks[place]) + 1
                if int(ends[after - 1]) - origin >= reach:
                    stop = after
        start = stop
    if hanging:
        advance = advance.copy()
        advance[np.concatenate(hanging)] = 0
    return np.array(starts, np.intp), advance
