"""A text laid out on the pages that a vision-language model is shown."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFont

from foveate.errors import InputError
from foveate.text_image.font_file import shipped_font
from foveate.text_image.render import Renderer, StripStyle

# A visual token of 28 px (Qwen-VL) then holds two lines of about six characters.
FONT_PX, CELL_PX = 10, 28
SMALLEST_PX = 6
CHUNK = 1 << 16  # characters given to the renderer at a time


@dataclass(frozen=True, eq=False, kw_only=True)
class Pages:
    """Pages of a text, in order.

    Args:
        images: RGB pictures.
        ranges: (start, stop) characters of the text that each picture shows, without gaps.
        missing: characters that no font had, with their counts; a box stands for each.
        complete: whether the pages show all of the text; False where `max_pages` ended them.
    """

    images: tuple[Image.Image, ...] = field(repr=False)
    ranges: tuple[tuple[int, int], ...]
    missing: Counter[str] = field(default_factory=Counter)
    complete: bool = True

    def __len__(self) -> int:
        return len(self.images)


class Layout(Protocol):
    """How a text becomes pages."""

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in px of a page; the last one may be lower."""

    def takes(self, text: str) -> bool:
        """Whether this layout can show the text."""

    def lay_out(self, text: str, *, max_pages: int | None = None) -> Pages:
        """The pages of a text, at most `max_pages` of them."""

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain values for JSON."""


@dataclass(frozen=True, kw_only=True)
class TextLayout:
    """Plain pages: lines of text from the upper left, broken at spaces and at line ends.

    Args:
        width, height: of a page, px.
        font_px: size of the font, px an em; None suits `cell_px`, see `font_for`.
        cell_px: side of the square that one visual token stands for, px; only for `font_px=None`.
        flow: draw a line end as a visible sign and go on in the same line, which wastes no paper on
            short lines; otherwise begin a new line, as the text does.
        fonts: font files tried, in order, for characters that the shipped Noto Sans lacks.
        crop_px: the last page ends at the first multiple of this below its text, for models whose
            tokens follow the picture's size; None leaves it whole.
        least_px: and keeps at least so many rows.

    Raises:
        InputError: the font does not fit the page, or a size is out of range.
    """

    width: int
    height: int
    font_px: int | None = None
    cell_px: float = CELL_PX
    flow: bool = False
    fonts: tuple[str, ...] = ()
    crop_px: int | None = None
    least_px: int = 1
    style: StripStyle = field(init=False)

    def __post_init__(self) -> None:
        if self.crop_px is not None and self.crop_px < 1:
            raise InputError(f"crop_px={self.crop_px} is below 1; give pixels, or None.")
        size = self.font_px if self.font_px is not None else font_for(self.cell_px, self.width)
        line = line_height(size)
        if line > self.height:
            raise InputError(
                f"a {size} px font needs lines of {line} px and the page has {self.height}; use a "
                "smaller font or a larger page."
            )
        object.__setattr__(
            self,
            "style",
            StripStyle(
                height=self.height,
                width=self.width,
                # Nothing here reads patches; they only have to fit the lines.
                patch=_largest_divisor(math.gcd(self.height, self.width), line),
                font_px=size,
                line_height=line,
                wrap=1.0,
                newline="mark" if self.flow else "break",
                fonts=self.fonts,
            ),
        )

    @property
    def size(self) -> tuple[int, int]:
        return self.width, self.height

    def takes(self, text: str) -> bool:
        return True

    def lay_out(self, text: str, *, max_pages: int | None = None) -> Pages:
        """Draw the text; drawing stops after `max_pages`, however long the text.

        Raises:
            InputError: the text is empty or only white space.
        """
        if not text or text.isspace():
            raise InputError("the text is empty, so there is nothing to show; give some text.")
        images: list[Image.Image] = []
        ranges: list[tuple[int, int]] = []
        missing: Counter[str] = Counter()
        for strips in Renderer(self.style).stream(_chunks(text)):
            missing.update(strips.missing)
            for page in range(len(strips)):
                if max_pages is not None and len(images) == max_pages:
                    whole = tuple(images)
                    return Pages(
                        images=whole, ranges=tuple(ranges), missing=missing, complete=False
                    )
                start, stop = strips.char_range(page)
                ranges.append((strips.first_char + start, strips.first_char + stop))
                pixels = strips.pixels[page]
                if ranges[-1][1] == len(text):
                    pixels = self._cropped(pixels, int(strips.char_top[start:stop].max()))
                images.append(Image.fromarray(pixels).convert("RGB"))
        return Pages(images=tuple(images), ranges=tuple(ranges), missing=missing)

    def to_dict(self) -> dict[str, Any]:
        return {
            "layout": "text",
            "width": self.width,
            "height": self.height,
            "font_px": self.style.font_px,
            "line_height": self.style.line,
            "lines": self.style.lines,
            "flow": self.flow,
            "crop_px": self.crop_px,
        }

    def _cropped(self, pixels: npt.NDArray[np.uint8], last_top: int) -> npt.NDArray[np.uint8]:
        """The page without the blank rows below its last line."""
        if self.crop_px is None:
            return pixels
        used = max(last_top + self.style.line, self.least_px)
        return pixels[: min(self.height, -(-used // self.crop_px) * self.crop_px)]


def font_for(cell_px: float, width: int) -> int:
    """A font for a model whose visual tokens stand for `cell_px` x `cell_px` pixels each.

    10 px up to 28 px, the paper's size, then larger in proportion, so that a token has to hold
    about a dozen characters and not more; smaller only where the page is too narrow for it.
    """
    return max(SMALLEST_PX, min(max(FONT_PX, round(cell_px * FONT_PX / CELL_PX)), width // 4, 64))


def line_height(font_px: int) -> int:
    """Rows from one line to the next: the shipped font's own ascent and descent.

    Raises:
        InputError: the size is no positive number of pixels.
    """
    if font_px < 1:
        raise InputError(f"font_px={font_px} is below 1; 10 is usual.")
    return sum(ImageFont.truetype(str(shipped_font()), font_px).getmetrics())


def _chunks(text: str) -> Iterator[str]:
    for start in range(0, len(text), CHUNK):
        yield text[start : start + CHUNK]


def _largest_divisor(number: int, most: int) -> int:
    return max(n for n in range(1, min(number, most) + 1) if number % n == 0)
