"""Rendered text: the pictures, and the exact map between characters, patches and pixels."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from foveate.errors import InputError
from foveate.text_image.strip_style import StripStyle

__all__ = ["Strips"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Strips:
    """Pictures of a text (strips, or pages of lines) and where each character went.

    Every character of the text has its entry, newlines and marks of no width too, so
    `len(char_page)` is the text's length and a tokenizer's offsets index the maps as they are.
    Characters of no width (combining marks, joiners) have `char_left == char_right`, the middle of
    the glyph they sit on. Within a line `char_left` never falls, and neither do the centres
    `(char_left + char_right) // 2`.

    Attributes:
        pixels: uint8 [P, H, W], 255 is paper, 0 ink.
        patch_mask: bool [P, L], True where a patch holds text: in each line, from the first to the
            last glyph; blank patches after them are False. Patches run row by row.
        char_page: int32 [C], the picture of a character; never falls.
        char_left, char_right: int32 [C], its pixel columns, left included and right not.
        char_top: int32 [C], the first pixel row of its line; 0 in strips.
        missing: the characters that no font had, with their counts; a box stands for each.
        style: how the text was drawn.
        first_char, first_page: what came before in a stream; 0 otherwise. The maps and the methods
            count from this object's first character and picture.
    """

    pixels: npt.NDArray[np.uint8]
    patch_mask: npt.NDArray[np.bool_]
    char_page: npt.NDArray[np.int32]
    char_left: npt.NDArray[np.int32]
    char_right: npt.NDArray[np.int32]
    char_top: npt.NDArray[np.int32]
    missing: Counter[str]
    style: StripStyle = field(default_factory=StripStyle)
    first_char: int = 0
    first_page: int = 0

    def __len__(self) -> int:
        return len(self.pixels)

    @cached_property
    def char_patch(self) -> npt.NDArray[np.int32]:
        """The patch, int32 [C], that holds each character's centre."""
        patch, columns = self.style.patch, self.style.grid[1]
        column = np.minimum((self.char_left + self.char_right) // 2 // patch, columns - 1)
        row = (self.char_top + self.style.line // 2) // patch
        return (row * columns + column).astype(np.int32)

    def char_range(self, page: int) -> tuple[int, int]:
        """First character of a picture and the one after its last.

        Raises:
            InputError: there is no such picture.
        """
        self._check_page(page)
        start, stop = np.searchsorted(self.char_page, [page, page + 1])
        return int(start), int(stop)

    def patches_of(self, start: int, stop: int) -> list[tuple[int, int, int]]:
        """The patches that characters start..stop-1 touch, e.g. those of a token's offsets.

        Returns:
            (page, first patch, last patch), both included, in reading order: one entry for each
            picture, in pages for each row of patches of each line. Nothing for an empty range.

        Raises:
            InputError: the range is not within the text.
        """
        if not 0 <= start <= stop <= len(self.char_page):
            raise InputError(
                f"characters {start} to {stop} are not within the text's "
                f"{len(self.char_page)}; give 0 <= start <= stop <= {len(self.char_page)}."
            )
        if start == stop:
            return []
        patch, columns = self.style.patch, self.style.grid[1]
        place = self.char_page[start:stop].astype(np.int64) * self.style.height
        place += self.char_top[start:stop]
        begins = np.flatnonzero(np.diff(place, prepend=-1))
        touched = []
        for begin, end in zip(begins, [*begins[1:], stop - start], strict=True):
            left = self.char_left[start + begin : start + end]
            right = self.char_right[start + begin : start + end]
            first = min(int(left[0]) // patch, columns - 1)
            last = min(
                max(int((np.maximum(right, left + 1) - 1).max()) // patch, first), columns - 1
            )
            page, top = divmod(int(place[begin]), self.style.height)
            for row in range(top // patch, (top + self.style.line - 1) // patch + 1):
                touched.append((page, row * columns + first, row * columns + last))
        return touched

    def chars_of(self, page: int, patch: int) -> tuple[int, int]:
        """First character whose centre lies in the patch, and the one after the last such.

        A patch without a centre (blank, or within a wide glyph) gives an empty range. Over all
        patches of a picture each of its characters is named once.

        Raises:
            InputError: there is no such picture or patch.
        """
        if not 0 <= patch < self.style.patches:
            raise InputError(
                f"patch {patch} does not exist; a picture has patches 0 to "
                f"{self.style.patches - 1}."
            )
        start, stop = self.char_range(page)
        inside = self.char_patch[start:stop]
        first, last = np.searchsorted(inside, [patch, patch + 1])
        return start + int(first), start + int(last)

    def _check_page(self, page: int) -> None:
        if not 0 <= page < len(self.pixels):
            raise InputError(
                f"picture {page} does not exist; the text has {len(self.pixels)}, counted from 0."
            )
