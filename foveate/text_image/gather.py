"""The pixels of lines: one gather of the atlas's columns, then the ink that reaches over."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from foveate.text_image.atlas import Atlas

__all__ = ["gather_lines"]

# More marks than this on one glyph are a black spot already, and no longer drawn.
MAX_MARKS = 16


def gather_lines(
    atlas: Atlas,
    slots: npt.NDArray[np.int32],
    advance: npt.NDArray[np.intp],
    pen: npt.NDArray[np.intp],
    line: npt.NDArray[np.intp],
    starts: npt.NDArray[np.intp],
) -> npt.NDArray[np.uint8]:
    """The pixels of whole lines, side by side.

    Args:
        atlas: the glyphs.
        slots: int32 [C], the glyph of each character.
        advance: intp [C], its pixels; a space that hangs at the end of its line has none.
        pen: intp [C], where it begins in its line.
        line: intp [C], the number of its line, from 0.
        starts: intp [lines], the first character of each line.

    Returns:
        uint8 [line height, lines * width].
    """
    width = atlas.style.width
    num_lines = len(starts)
    at = line * width + pen
    # The rest of each line is one more cell, of the blank columns that the atlas begins with.
    ends = np.append(starts[1:], len(slots)).astype(np.intp)
    used = pen[ends - 1] + advance[ends - 1]
    blank = np.arange(num_lines) * width + used
    cells = np.insert(advance, ends, width - used)
    source = np.insert(atlas.start[slots] - at, ends, -blank)
    columns = np.repeat(source, cells)
    columns += np.arange(num_lines * width)
    drawn = np.take(atlas.columns, columns, axis=1, mode="clip")
    _draw_sides(atlas, drawn, slots, pen, at, starts)
    return drawn


def _draw_sides(
    atlas: Atlas,
    drawn: npt.NDArray[np.uint8],
    slots: npt.NDArray[np.int32],
    pen: npt.NDArray[np.intp],
    at: npt.NDArray[np.intp],
    starts: npt.NDArray[np.intp],
) -> None:
    """Lay the ink that reaches out of the glyphs' cells over the neighbours.

    A column at a time and, for marks without width, a mark of each glyph at a time, so that no
    pixel is written twice at once.
    """
    width = atlas.style.width
    advance, start = atlas.advance[slots], atlas.start[slots]
    left, right = atlas.left[slots], atlas.right[slots]
    outside = np.flatnonzero(left + right)
    if not len(outside):
        return
    # 0 for a glyph with width (or a mark that begins the line), n for the n-th mark on it.
    place = np.arange(len(slots))
    own = advance > 0
    own[starts] = True
    nth = (place - np.maximum.accumulate(np.where(own, place, 0)))[outside]
    for turn in np.unique(nth[nth <= MAX_MARKS]):
        chars = outside[nth == turn]
        for depth in range(1, int(left[chars].max()) + 1):
            inside = chars[(left[chars] >= depth) & (pen[chars] >= depth)]
            _overlay(drawn, at[inside] - depth, atlas.columns[:, start[inside] - depth])
        for depth in range(int(right[chars].max())):
            reach = advance[chars] + depth
            some = (right[chars] > depth) & (pen[chars] + reach < width)
            inside, reach = chars[some], reach[some]
            _overlay(drawn, at[inside] + reach, atlas.columns[:, start[inside] + reach])


def _overlay(
    drawn: npt.NDArray[np.uint8], at: npt.NDArray[np.intp], ink: npt.NDArray[np.uint8]
) -> None:
    """Black ink over grey paper: the whites multiply, rounded as Pillow's blending does."""
    product = drawn[:, at].astype(np.uint16) * ink + 128
    drawn[:, at] = ((product >> 8) + product) >> 8
