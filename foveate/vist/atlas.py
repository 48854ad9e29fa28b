"""The glyph atlas: every character drawn once, as columns that strips are gathered from."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from foveate.errors import InputError
from foveate.vist.font_file import code_points, shipped_font
from foveate.vist.strip_style import StripStyle

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
    """

    def __init__(self, style: StripStyle) -> None:
        self.style = style
        self.slots = np.full(NUM_CODE_POINTS, -1, np.int32)
        self.columns = np.full((style.line, style.width), PAPER, np.uint8)
        self.start, self.advance, self.left, self.right = (np.zeros(0, np.intp) for _ in range(4))
        self.lacking = np.zeros(0, np.bool_)
        font = _open_font(shipped_font(), style.font_px)
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

    def glyphs(self, code: npt.NDArray[np.uint32]) -> npt.NDArray[np.int32]:
        """The slots of code points [C], drawing those that are new."""
        slots = self.slots[code]
        if slots.size and slots.min() < 0:
            for point in np.unique(code[slots < 0]):
                self._draw(int(point))
            slots = self.slots[code]
        return slots

    def _draw(self, point: int) -> None:
        char = chr(point)
        kind = unicodedata.category(char)
        if char == "\n" or kind in ("Zl", "Zp"):
            breaks = char == "\n" and self.style.newline == "break"
            self._store(point, None if breaks else self._newline_mark(), 0)
        elif char == "\t":
            self._store(point, None, TAB_SPACES * self._space)
        elif any(first <= point <= last for first, last in IGNORABLE):
            self._store(point, None, 0)
        elif kind != "Cc" and (font := self._font_with(point)) is not None:
            self._store_glyph(point, char, kind, font)
        elif kind == "Zs":
            self._store(point, None, self.style.font_px)
        else:
            self._store(point, self._box(), 0, lacking=True)

    def _store_glyph(self, point: int, char: str, kind: str, font: ImageFont.FreeTypeFont) -> None:
        mask, (x, y) = font.getmask2(char, mode="L", anchor="ls")
        advance = min(round(font.getlength(char)), self.style.width)
        if kind in ("Mn", "Me"):
            # The mark belongs onto the glyph before, also in a font that gives it a width.
            x, advance = x - advance, 0
        width, height = mask.size
        ink = np.asarray(mask, np.uint8).reshape(height, width)
        # A picture of the line whose column `left` is the pen.
        left, right = max(0, -int(x)), max(0, int(x) + width - advance)
        cell = np.zeros((self.style.line, left + advance + right), np.uint8)
        top = self.baseline + int(y)
        first, last = max(0, top), min(self.style.line, top + height)
        if first < last:
            at = left + int(x)
            cell[first:last, at : at + width] = ink[first - top : last - top]
        self._store(point, PAPER - cell, advance, left=left, right=right)

    def _store(
        self,
        point: int,
        cell: npt.NDArray[np.uint8] | None,
        advance: int,
        *,
        left: int = 0,
        right: int = 0,
        lacking: bool = False,
    ) -> None:
        """Append a glyph: without a cell it is blank; without sides the cell is the advance."""
        if cell is None:
            cell = np.full((self.style.line, advance), PAPER, np.uint8)
        elif not advance and not left and not right:
            advance = cell.shape[1]
        # Outer columns without ink need not be drawn.
        while left and (cell[:, 0] == PAPER).all():
            cell, left = cell[:, 1:], left - 1
        while right and (cell[:, -1] == PAPER).all():
            cell, right = cell[:, :-1], right - 1
        self.slots[point] = len(self.start)
        self.start = np.append(self.start, self.columns.shape[1] + left)
        self.advance = np.append(self.advance, advance)
        self.left = np.append(self.left, left)
        self.right = np.append(self.right, right)
        self.lacking = np.append(self.lacking, lacking)
        self.columns = np.concatenate([self.columns, cell], axis=1)

    def _font_with(self, point: int) -> ImageFont.FreeTypeFont | None:
        for font, points in self._fonts:
            if _holds(points, point):
                return font
        while self._unopened:
            path = self._unopened.pop(0)
            points = code_points(path)
            self._fonts.append((_open_font(path, self.style.font_px), points))
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

    def _box(self) -> npt.NDArray[np.uint8]:
        """A hollow box from capital height to baseline."""
        size = self.style.font_px
        width, height = max(5, round(0.6 * size)), round(0.7 * size)
        image = Image.new("L", (width + 1, self.style.line), PAPER)
        corner = (width - 1, self.baseline - 1)
        ImageDraw.Draw(image).rectangle([(1, self.baseline - height), corner], outline=0)
        return np.array(image, np.uint8)


def _open_font(path: str | Path, size: int) -> ImageFont.FreeTypeFont:
    try:
        return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)
    except OSError as error:
        raise InputError(
            f"font {str(path)!r} cannot be opened ({error}); check the file."
        ) from None


def _holds(points: npt.NDArray[np.int64], point: int) -> bool:
    place = int(np.searchsorted(points, point))
    return place < len(points) and int(points[place]) == point
