"""How text is drawn: the geometry, the fonts, and what a newline looks like."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from foveate.errors import InputError

__all__ = ["NEWLINES", "StripStyle"]

NEWLINES = ("mark", "break")
FONT_PX = (6, 64)
MAX_SIDE = 16384


@dataclass(frozen=True, kw_only=True)
class StripStyle:
    """The geometry and the fonts of rendered text.

    The defaults are one line per picture: strips of 14 x 3584 pixels, as many as 224 x 224, read
    as 256 patches of 14 x 14 in one row, text at 10 px (Xing et al., arXiv:2502.00791). With
    `height` a multiple of `line_height` the picture is a page of several lines.

    Args:
        height: pixels, a multiple of patch and at least line_height.
        width: pixels, a multiple of patch.
        patch: side of the square that the encoder reads, pixels.
        font_px: size of the font, pixels an em, 6 to 64.
        line_height: pixels from one line to the next; None for the whole height. Not below patch,
            so that no patch holds the middle of two lines.
        wrap: share of the line's end in which a space is looked for to break at, 0 to 1; where
            there is none, the line breaks between two characters.
        newline: "mark" draws a newline as one visible sign and goes on in the same line (none of
            the strip is lost), and a tab as another; "break" draws nothing and starts a new line,
            and a tab is blank.
        fonts: font files tried, in order, for characters that the shipped Noto Sans lacks.

    Raises:
        InputError: a value is out of range, or two do not fit together.

    Example:
        >>> StripStyle().patches
        256
        >>> StripStyle(height=224, width=224, line_height=14, wrap=1.0).lines
        16
    """

    height: int = 14
    width: int = 3584
    patch: int = 14
    font_px: int = 10
    line_height: int | None = None
    wrap: float = 0.1
    newline: str = "mark"
    fonts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.fonts, str):
            raise InputError(f"fonts={self.fonts!r} is one string; give a tuple of files.")
        object.__setattr__(self, "fonts", tuple(str(font) for font in self.fonts))
        for name in ("patch", "height", "width", "font_px", "line_height"):
            value = getattr(self, name)
            if name == "line_height" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"{name}={value!r} is no number of pixels; give an integer >= 1.")
        if not FONT_PX[0] <= self.font_px <= FONT_PX[1]:
            raise InputError(
                f"font_px={self.font_px} is outside {FONT_PX[0]} to {FONT_PX[1]}; 10 is usual."
            )
        for name in ("height", "width"):
            value = getattr(self, name)
            if value > MAX_SIDE:
                raise InputError(f"{name}={value} exceeds {MAX_SIDE} pixels; lower it.")
            if value % self.patch:
                raise InputError(
                    f"{name}={value} is no multiple of patch={self.patch}; "
                    f"use {max(1, round(value / self.patch)) * self.patch}."
                )
        if self.width < 4 * self.font_px:
            raise InputError(
                f"width={self.width} is below 4 x font_px={self.font_px}, too narrow for a wide "
                f"glyph; use at least {4 * self.font_px}."
            )
        if self.line > self.height:
            raise InputError(
                f"line_height={self.line} exceeds height={self.height}; lower it or raise height."
            )
        if self.line < self.patch:
            raise InputError(
                f"line_height={self.line} is below patch={self.patch}, so a patch would hold two "
                "lines; raise line_height or use a smaller patch that divides this one."
            )
        if not 0.0 <= float(self.wrap) <= 1.0:
            raise InputError(f"wrap={self.wrap} is outside [0, 1]; it is a share of the line.")
        if self.newline not in NEWLINES:
            raise InputError(f"newline={self.newline!r} is not one of {', '.join(NEWLINES)}.")

    @property
    def line(self) -> int:
        """Pixels from one line to the next."""
        return self.height if self.line_height is None else self.line_height

    @property
    def lines(self) -> int:
        """Lines a picture holds."""
        return self.height // self.line

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.height // self.patch, self.width // self.patch

    @property
    def patches(self) -> int:
        """Patches a picture holds."""
        rows, columns = self.grid
        return rows * columns

    def to_dict(self) -> dict[str, Any]:
        """The style as plain values for JSON."""
        return {**asdict(self), "fonts": list(self.fonts)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> StripStyle:
        """The style of `to_dict`.

        Raises:
            InputError: an unknown name, or a value that `StripStyle` refuses.
        """
        unknown = sorted(set(values) - set(cls.__dataclass_fields__))
        if unknown:
            raise InputError(
                f"a strip style has no {', '.join(unknown)}; "
                f"it has {', '.join(cls.__dataclass_fields__)}."
            )
        return cls(**values)
