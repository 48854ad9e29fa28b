"""The glyph atlas: every character drawn once, as columns that strips are gathered from."""

from __future__ import annotations

import threading
import unicodedata
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from foveate.errors import InputError
from foveate.text_image.font_file import check_font_file, code_points, open_font, shipped_font
from foveate.text_image.strip_style import StripStyle

__all__ = ["Atlas"]

PAPER = 255
NUM_CODE_POINTS = 0x110000
TAB_SPACES = 4

# Default_Ignorable_Code_Point of Unicode: soft hyphen, joiners, direction and variation marks.
# They show nothing by definition, so no font is asked.
IGNORABLE = (
    (0x00AD, 0x00AD),
    (0x034F, 0x034F),
    (0x061C, 0x061C),
    (0x115F, 0x1160),
    (0x17B4, 0x17B5),
    (0x180B, 0x180F),
    (0x200B, 0x200F),
    (0x202A, 0x202E),
    (0x2060, 0x206F),
    (0x3164, 0x3164),
    (0xFE00, 0xFE0F),
    (0xFEFF, 0xFEFF),
    (0xFFA0, 0xFFA0),
    (0xFFF0, 0xFFF8),
    (0x1BCA0, 0x1BCA3),
    (0x1D173, 0x1D17A),
    (0xE0000, 0xE0FFF),
)


@dataclass(frozen=True, kw_only=True)
class _Glyph:
    """One drawn character: uint8 pixels [line, left + advance + right]."""

    cell: npt.NDArray[np.uint8]
    advance: int
    left: int = 0
    right: int = 0
    lacking: bool = False


class Atlas:
    """Glyphs of one style, drawn when first needed.

    A glyph is a cell as wide as its hinted advance, with the ink that reaches out of the cell
    (a few glyphs' sides, all of a combining mark) in further columns left and right of it. Glyphs
    are Pillow's with basic layout: one per character, no kerning, no ligatures, no shaping.

    Attributes:
        slots: int32 [0x110000], the glyph of a code point, or -1 where not drawn yet.
        columns: uint8 [line, columns]; 255 is paper, 0 ink. The first `width` are blank.
        start: intp [slots], column where the cell begins.
        advance: intp [slots], columns of the cell; 0 for marks that sit on the glyph before.
        left, right: intp [slots], columns of ink before and after the cell.
        lacking: bool [slots], True where no font had the character and a box stands for it.

    Raises:
        InputError: a font cannot be read, or is taller than the line.

    Several threads may use one atlas: arrays are replaced, never changed, and only grow.
    """

    def __init__(self, style: StripStyle) -> None:
        self.style = style
        self.slots = np.full(NUM_CODE_POINTS, -1, np.int32)
        self.columns = np.full((style.line, style.width), PAPER, np.uint8)
        self.start, self.advance, self.left, self.right = (np.zeros(0, np.intp) for _ in range(4))
        self.lacking = np.zeros(0, np.bool_)
        font = open_font(shipped_font(), style.font_px)
        ascent, descent = font.getmetrics()
        if ascent + descent > style.line:
            raise InputError(
                f"a {style.font_px} px font needs lines of {ascent + descent} pixels, above the "
                f"line's {style.line}; lower font_px or raise height or line_height."
            )
        self.baseline = ascent + (style.line - ascent - descent) // 2
        self._space = round(font.getlength(" "))
        self._fonts = [(font, code_points(shipped_font()))]
        self._unopened = list(style.fonts)
        self._lock = threading.Lock()
        for path in style.fonts:
            # Opened when first needed, but a wrong path is told at once.
            check_font_file(path)

    def glyphs(self, code: npt.NDArray[np.uint32]) -> npt.NDArray[np.int32]:
        """The slots of code points [C], drawing those that are new."""
        slots = self.slots[code]
        if slots.size and slots.min() < 0:
            with self._lock:
                new = [int(point) for point in np.unique(code) if self.slots[point] < 0]
                self._append(new, [self._glyph(point) for point in new])
            slots = self.slots[code]
        return slots

    def _append(self, points: list[int], glyphs: list[_Glyph]) -> None:
        """Take new glyphs in; `slots` comes last, so that no thread sees half of one."""
        widths = [glyph.cell.shape[1] for glyph in glyphs]
        ends = self.columns.shape[1] + np.cumsum([0, *widths])[:-1]
        left = np.array([glyph.left for glyph in glyphs], np.intp)
        first_slot = len(self.start)
        self.columns = np.concatenate([self.columns, *(glyph.cell for glyph in glyphs)], axis=1)
        self.start = np.append(self.start, ends + left)
        self.advance = np.append(self.advance, [glyph.advance for glyph in glyphs])
        self.left = np.append(self.left, left)
        self.right = np.append(self.right, [glyph.right for glyph in glyphs])
        self.lacking = np.append(self.lacking, [glyph.lacking for glyph in glyphs])
        self.slots[points] = np.arange(first_slot, len(self.start))

    def _glyph(self, point: int) -> _Glyph:
        char = chr(point)
        kind = unicodedata.category(char)
        if char == "\n" and self.style.newline == "break":
            return self._blank(0)
        if char == "\n" or kind in ("Zl", "Zp"):
            return self._sign(self._newline_mark())
        if char == "\t" and self.style.newline == "break":
            return self._blank(TAB_SPACES * self._space)
        if char == "\t":
            return self._sign(self._tab_mark())
        if any(first <= point <= last for first, last in IGNORABLE):
            return self._blank(0)
        if kind != "Cc" and (font := self._font_with(point)) is not None:
            return self._drawn(char, kind, font)
        if kind == "Zs":
            return self._blank(self.style.font_px)
        return self._sign(self._box(), lacking=True)

    def _blank(self, advance: int) -> _Glyph:
        cell = np.full((self.style.line, advance), PAPER, np.uint8)
        return _Glyph(cell=cell, advance=advance)

    def _sign(self, cell: npt.NDArray[np.uint8], *, lacking: bool = False) -> _Glyph:
        return _Glyph(cell=cell, advance=cell.shape[1], lacking=lacking)

    def _drawn(self, char: str, kind: str, font: ImageFont.FreeTypeFont) -> _Glyph:
        mask, (x, y) = font.getmask2(char, mode="L", anchor="ls")
        advance = min(round(font.getlength(char)), self.style.width)
        if kind in ("Mn", "Me"):
            # The mark belongs onto the glyph before, also in a font that gives it a width.
            x, advance = x - advance, 0
        width, height = mask.size
        ink = np.asarray(mask, np.uint8).reshape(height, width)
        # A picture of the line whose column `left` is the pen.
        left, right = max(0, -int(x)), max(0, int(x) + width - advance)
        cell = np.full((self.style.line, left + advance + right), PAPER, np.uint8)
        top, at = self.baseline + int(y), left + int(x)
        first, last = max(0, top), min(self.style.line, top + height)
        if first < last:
            cell[first:last, at : at + width] = PAPER - ink[first - top : last - top]
        # Outer columns without ink need not be drawn.
        while left and (cell[:, 0] == PAPER).all():
            cell, left = cell[:, 1:], left - 1
        while right and (cell[:, -1] == PAPER).all():
            cell, right = cell[:, :-1], right - 1
        return _Glyph(cell=cell, advance=advance, left=left, right=right)

    def _font_with(self, point: int) -> ImageFont.FreeTypeFont | None:
        for font, points in self._fonts:
            if _holds(points, point):
                return font
        while self._unopened:
            path = self._unopened.pop(0)
            points = code_points(path)
            self._fonts.append((open_font(path, self.style.font_px), points))
            if _holds(points, point):
                return self._fonts[-1][0]
        return None

    def _newline_mark(self) -> npt.NDArray[np.uint8]:
        """A return arrow: down on the right, to the left along x-height/2; no letter looks so."""
        size = self.style.font_px
        reach, stem = max(4, round(0.5 * size)), max(3, round(0.5 * size))
        image = Image.new("L", (reach + 2, self.style.line), PAPER)
        draw = ImageDraw.Draw(image)
        foot, right = self.baseline - max(2, size // 4), reach
        draw.line([(right, foot - stem), (right, foot), (1, foot)], fill=0)
        draw.line([(2, foot - 1), (2, foot + 1)], fill=0)
        return np.array(image, np.uint8)

    def _tab_mark(self) -> npt.NDArray[np.uint8]:
        """A low bracket as wide as the blanks it stands for, which nothing could tell it from."""
        size, width = self.style.font_px, TAB_SPACES * self._space
        image = Image.new("L", (width, self.style.line), PAPER)
        draw = ImageDraw.Draw(image)
        foot, right = self.baseline - max(2, size // 4), width - 2
        draw.line([(2, foot), (right, foot)], fill=0)
        draw.line([(right, foot - 2), (right, foot + 2)], fill=0)
        return np.array(image, np.uint8)

    def _box(self) -> npt.NDArray[np.uint8]:
        """A hollow box from capital height to baseline."""
        size = self.style.font_px
        width, height = max(5, round(0.6 * size)), round(0.7 * size)
        image = Image.new("L", (width + 1, self.style.line), PAPER)
        corner = (width - 1, self.baseline - 1)
        ImageDraw.Draw(image).rectangle([(1, self.baseline - height), corner], outline=0)
        return np.array(image, np.uint8)


def _holds(points: npt.NDArray[np.int64], point: int) -> bool:
    place = int(np.searchsorted(points, point))
    return place < len(points) and int(points[place]) == point
