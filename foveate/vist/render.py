"""Text to strips: lines are broken by arithmetic, then gathered column by column from the atlas."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from foveate.errors import InputError
from foveate.vist.atlas import PAPER, Atlas
from foveate.vist.lines import break_lines
from foveate.vist.strip_style import StripStyle
from foveate.vist.strips import Strips

__all__ = ["Renderer", "StripStyle", "Strips"]

# Lines drawn at a time: the column indices of so many stay in the processor's cache.
LINES_AT_A_TIME = 8

# More marks than this on one glyph are a black spot already, and no longer drawn.
MAX_MARKS = 16

# Characters that a stream collects before it draws, about 45 strips.
STREAM_CHARS = 32768


class Renderer:
    """Draws text as strips (or pages) with an exact map from characters to patches.

    Text rendering of Xing et al., arXiv:2502.00791, section 3: 10 px Noto Sans in strips of
    14 x 3584 pixels, blank patches masked. Every character is drawn alone, from an atlas kept
    between calls: no kerning, no ligatures, no shaping, no reordering. The pixels depend on the
    text, the style, its fonts and the version of FreeType, on nothing else.

    Args:
        style: geometry and fonts.

    Raises:
        InputError: a font of the style cannot be read (extra fonts are opened when first needed),
            or the font is taller than the line.

    Example:
        >>> strips = Renderer().render("far context")
        >>> strips.pixels.shape
        (1, 14, 3584)
        >>> strips.patches_of(4, 11)
        [(0, 1, 3)]
    """

    def __init__(self, style: StripStyle | None = None) -> None:
        self.style = style if style is not None else StripStyle()
        self._atlas = Atlas(self.style)

    def __reduce__(self) -> tuple[type[Renderer], tuple[StripStyle]]:
        # Fonts and locks do not travel to other processes; the style is all there is to know.
        return Renderer, (self.style,)

    def render(self, text: str) -> Strips:
        """Draw a text; an empty one gives no pictures.

        Raises:
            InputError: `text` is no string, or an extra font cannot be read.
        """
        if not isinstance(text, str):
            raise InputError(f"text is {type(text).__name__}, not str; decode bytes first.")
        code = _code_points(text)
        slots = self._atlas.glyphs(code)
        return self._draw(code, slots, *self._break(code, slots))

    def stream(self, chunks: Iterable[str]) -> Iterator[Strips]:
        """Draw a text that comes in pieces, in memory that does not grow with it.

        The pictures, put together, equal those of `render` on the whole text. The maps of each
        Strips count from its own start; `first_char` and `first_page` say where that is.

        Raises:
            InputError: as `render`.
        """
        kept, waiting = "", 0
        pieces: list[str] = []
        first_char = first_page = 0
        for chunk in chunks:
            if not isinstance(chunk, str):
                raise InputError(f"text is {type(chunk).__name__}, not str; decode bytes first.")
            for begin in range(0, len(chunk), STREAM_CHARS):
                pieces.append(chunk[begin : begin + STREAM_CHARS])
                waiting += len(pieces[-1])
                if waiting < STREAM_CHARS:
                    continue
                text = kept + "".join(pieces)
                pieces, waiting = [], 0
                code = _code_points(text)
                slots = self._atlas.glyphs(code)
                starts, advance = self._break(code, slots)
                # What ends a line is known once two characters follow it.
                settled = int(np.searchsorted(starts, len(text) - 1))
                done = max(0, settled - 1) // self.style.lines * self.style.lines
                if not done:
                    kept = text
                    continue
                stop = int(starts[done])
                whole = (code[:stop], slots[:stop], starts[:done], advance[:stop])
                strips = self._draw(*whole, first_char, first_page)
                yield strips
                kept = text[stop:]
                first_char, first_page = first_char + stop, first_page + len(strips)
        text = kept + "".join(pieces)
        if text:
            code = _code_points(text)
            slots = self._atlas.glyphs(code)
            starts, advance = self._break(code, slots)
            yield self._draw(code, slots, starts, advance, first_char, first_page)

    def _break(
        self, code: npt.NDArray[np.uint32], slots: npt.NDArray[np.int32]
    ) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """First characters of the lines, and each character's pixels."""
        newline = code == ord("\n")
        ends = self.style.newline == "break"
        return break_lines(
            self._atlas.advance[slots],
            (code == ord(" ")) | (code == ord("\t")) | newline,
            newline if ends else np.zeros_like(newline),
            width=self.style.width,
            wrap=self.style.wrap,
            hang=ends,
        )

    def _draw(
        self,
        code: npt.NDArray[np.uint32],
        slots: npt.NDArray[np.int32],
        starts: npt.NDArray[np.intp],
        advance: npt.NDArray[np.intp],
        first_char: int = 0,
        first_page: int = 0,
    ) -> Strips:
        style, atlas = self.style, self._atlas
        num_lines = len(starts)
        num_pages = -(-num_lines // style.lines)
        pixels = np.full((num_pages, style.height, style.width), PAPER, np.uint8)
        stops = np.append(starts[1:], len(code)).astype(np.intp)
        line = np.repeat(np.arange(num_lines), stops - starts)
        pen = np.cumsum(advance) - advance
        pen -= np.repeat(pen[starts], stops - starts) if num_lines else 0
        for first in range(0, num_lines, LINES_AT_A_TIME):
            last = min(first + LINES_AT_A_TIME, num_lines)
            part = slice(int(starts[first]), int(stops[last - 1]))
            drawn = self._draw_lines(
                slots[part],
                advance[part],
                pen[part],
                line[part] - first,
                starts[first:last] - part.start,
            )
            for index in range(first, last):
                row = index % style.lines
                at = (index - first) * style.width
                pixels[index // style.lines, row * style.line : (row + 1) * style.line] = drawn[
                    :, at : at + style.width
                ]
        left, right = _spans(pen, advance, line)
        page = line // style.lines
        top = line % style.lines * style.line
        lacking = atlas.lacking[slots]
        return Strips(
            pixels=pixels,
            patch_mask=self._mask(page, top, left, right, num_pages),
            char_page=page.astype(np.int32),
            char_left=left.astype(np.int32),
            char_right=right.astype(np.int32),
            char_top=top.astype(np.int32),
            missing=Counter(map(chr, code[lacking].tolist())),
            style=style,
            first_char=first_char,
            first_page=first_page,
        )

    def _draw_lines(
        self,
        slots: npt.NDArray[np.int32],
        advance: npt.NDArray[np.intp],
        pen: npt.NDArray[np.intp],
        line: npt.NDArray[np.intp],
        starts: npt.NDArray[np.intp],
    ) -> npt.NDArray[np.uint8]:
        """The pixels [line height, lines * width] of whole lines."""
        atlas, width = self._atlas, self.style.width
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
        self._draw_sides(drawn, slots, pen, at, starts)
        return drawn

    def _draw_sides(
        self,
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
        atlas, width = self._atlas, self.style.width
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

    def _mask(
        self,
        page: npt.NDArray[np.intp],
        top: npt.NDArray[np.intp],
        left: npt.NDArray[np.intp],
        right: npt.NDArray[np.intp],
        num_pages: int,
    ) -> npt.NDArray[np.bool_]:
        """True for the patches of each line up to its last glyph: bool [P, L]."""
        patch, (rows, columns) = self.style.patch, self.style.grid
        used = np.zeros((num_pages, rows), np.intp)
        last = np.maximum(right - 1, left) // patch + 1
        for offset in range(0, self.style.line + patch - 1, patch):
            row = (top + min(offset, self.style.line - 1)) // patch
            np.maximum.at(used, (page, row), last)
        mask: npt.NDArray[np.bool_] = np.arange(columns) < used[..., None]
        return mask.reshape(num_pages, rows * columns)


def _code_points(text: str) -> npt.NDArray[np.uint32]:
    """Code points [C]; lone surrogates are kept, as characters that no font has."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def _overlay(
    drawn: npt.NDArray[np.uint8], at: npt.NDArray[np.intp], ink: npt.NDArray[np.uint8]
) -> None:
    """Black ink over grey paper: the whites multiply, rounded as Pillow's blending does."""
    product = drawn[:, at].astype(np.uint16) * ink + 128
    drawn[:, at] = ((product >> 8) + product) >> 8


def _spans(
    pen: npt.NDArray[np.intp], advance: npt.NDArray[np.intp], line: npt.NDArray[np.intp]
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Left and right of each character; a mark without width is at the middle of its glyph."""
    left, right = pen, pen + advance
    marks = np.flatnonzero(advance == 0)
    if len(marks):
        place = np.arange(len(pen))
        base = np.maximum.accumulate(np.where(advance > 0, place, 0))[marks]
        middle = np.where(
            (advance[base] > 0) & (line[base] == line[marks]), (left[base] + right[base]) // 2, 0
        )
        left, right = left.copy(), right.copy()
        left[marks] = right[marks] = middle
    return left, right
