"""Text to strips: lines are broken by arithmetic, then gathered column by column from the atlas."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from foveate.errors import InputError
from foveate.text_image.atlas import PAPER, Atlas
from foveate.text_image.gather import gather_lines
from foveate.text_image.lines import break_lines
from foveate.text_image.strip_style import StripStyle
from foveate.text_image.strips import Strips

__all__ = ["Renderer", "StripStyle", "Strips"]

# Lines drawn at a time: the column indices of so many stay in the processor's cache.
LINES_AT_A_TIME = 8

# Characters that a stream collects before it draws, about 45 strips.
STREAM_CHARS = 32768


@dataclass(frozen=True, eq=False, kw_only=True)
class _LaidOut:
    """Characters [C] with their glyphs and pixels, and the first character of each line."""

    code: npt.NDArray[np.uint32]
    slots: npt.NDArray[np.int32]
    advance: npt.NDArray[np.intp]
    starts: npt.NDArray[np.intp]

    def first(self, num_lines: int) -> _LaidOut:
        """The first lines of several."""
        stop = int(self.starts[num_lines])
        return _LaidOut(
            code=self.code[:stop],
            slots=self.slots[:stop],
            advance=self.advance[:stop],
            starts=self.starts[:num_lines],
        )


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
        return self._draw(self._lay_out(text))

    def stream(self, chunks: Iterable[str]) -> Iterator[Strips]:
        """Draw a text that comes in pieces, in memory that does not grow with it.

        The pictures, put together, equal those of `render` on the whole text. The maps of each
        Strips count from its own start; `first_char` and `first_page` say where that is.

        Raises:
            InputError: as `render`.
        """
        kept = ""
        first_char = first_page = 0
        for block in _blocks(chunks):
            kept += block
            laid_out = self._lay_out(kept)
            # What ends a line is known once two characters follow it; only whole pictures go.
            settled = int(np.searchsorted(laid_out.starts, len(kept) - 1)) - 1
            done = max(0, settled) // self.style.lines * self.style.lines
            if done:
                strips = self._draw(laid_out.first(done), first_char, first_page)
                yield strips
                kept = kept[len(strips.char_page) :]
                first_char += len(strips.char_page)
                first_page += len(strips)
        if kept:
            yield self._draw(self._lay_out(kept), first_char, first_page)

    def _lay_out(self, text: str) -> _LaidOut:
        code = _code_points(text)
        slots = self._atlas.glyphs(code)
        newline = code == ord("\n")
        real_lines = self.style.newline == "break"
        starts, advance = break_lines(
            self._atlas.advance[slots],
            (code == ord(" ")) | (code == ord("\t")) | newline,
            newline if real_lines else np.zeros_like(newline),
            width=self.style.width,
            wrap=self.style.wrap,
            hang=real_lines,
        )
        return _LaidOut(code=code, slots=slots, advance=advance, starts=starts)

    def _draw(self, laid_out: _LaidOut, first_char: int = 0, first_page: int = 0) -> Strips:
        code, slots, advance = laid_out.code, laid_out.slots, laid_out.advance
        starts = laid_out.starts
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
            drawn = gather_lines(
                atlas,
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


def _blocks(chunks: Iterable[str]) -> Iterator[str]:
    """The same text in pieces of STREAM_CHARS or a little more; the last may be shorter."""
    pieces: list[str] = []
    waiting = 0
    for chunk in chunks:
        if not isinstance(chunk, str):
            raise InputError(f"text is {type(chunk).__name__}, not str; decode bytes first.")
        for begin in range(0, len(chunk), STREAM_CHARS):
            pieces.append(chunk[begin : begin + STREAM_CHARS])
            waiting += len(pieces[-1])
            if waiting >= STREAM_CHARS:
                yield "".join(pieces)
                pieces, waiting = [], 0
    if pieces:
        yield "".join(pieces)


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
