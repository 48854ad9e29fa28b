"""The frozen text encoder as a proofreader of pages that another model is to read."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from foveate.text_image.strip_style import StripStyle
from foveate.text_image.strips import Strips
from foveate.vist.encoder.characters import check_reads, read_characters
from foveate.vist.encoder.labels import OTHER, character_classes

__all__ = ["PageProofreader"]

STRIPS_AT_A_TIME = 32


class PageProofreader:
    """Reads the lines of pages; see foveate.carve.pages.proof.Proofreader.

    The encoder knows one size of letters, its own; of pages with another it says so and judges
    nothing. Lines are read as its strips, several side by side.

    Args:
        encoder: one that reads characters, such as the embedded one.

    Raises:
        InputError: it reads no characters.
    """

    def __init__(self, encoder: Any) -> None:
        check_reads(encoder)
        self.encoder = encoder

    def why_not(self, style: StripStyle) -> str:
        """Why it cannot judge pages of this style; "" if it can."""
        own: StripStyle = self.encoder.style
        if (style.font_px, style.line) != (own.font_px, own.line):
            return (
                f"the proofreader reads letters of {own.font_px} px in lines of {own.line} px, and "
                f"the pages have {style.font_px} px in lines of {style.line} px"
            )
        if style.width > own.width:
            return f"the pages are {style.width} px wide and the proofreader reads {own.width} px"
        return ""

    @torch.no_grad()
    def is_right(self, strips: Strips, text: str) -> npt.NDArray[np.bool_]:
        """Whether each character was read as what was drawn, bool [C].

        True as well where the encoder is no judge: for blanks, characters without width, and those
        outside of its alphabet.
        """
        if not text:
            return np.zeros(0, dtype=np.bool_)
        lines = self._as_strips(strips)
        found = []
        for first in range(0, len(lines), STRIPS_AT_A_TIME):
            part = slice(first, first + STRIPS_AT_A_TIME)
            mask = torch.from_numpy(lines.patch_mask[part])
            features = self.encoder(torch.from_numpy(lines.pixels[part]), mask)
            found.append(read_characters(self.encoder, features, lines, first).classes[:, 0])
        seen = np.concatenate(found)
        drawn = character_classes(text)
        blank = np.array([char.isspace() for char in text], dtype=np.bool_)
        no_judge = blank | (drawn == OTHER) | (strips.char_left == strips.char_right)
        right: npt.NDArray[np.bool_] = (seen == drawn) | no_judge
        return right

    def _as_strips(self, strips: Strips) -> Strips:
        """The lines of pages side by side on strips of the encoder's own, two patches apart."""
        own: StripStyle = self.encoder.style
        patch, line = own.patch, own.line
        pitch = -(-strips.style.width // patch) + 2  # patches from one line to the next
        beside = max(1, own.patches // pitch)
        row = strips.char_page.astype(np.int64) * strips.style.lines + strips.char_top // line
        _, number = np.unique(row, return_inverse=True)
        count = -(-(int(number.max()) + 1) // beside)
        pixels = np.full((count, own.height, own.width), 255, dtype=np.uint8)
        mask = np.zeros((count, own.patches), dtype=np.bool_)
        begins = np.flatnonzero(np.diff(number, prepend=-1))
        for begin, end in zip(begins, [*begins[1:], len(number)], strict=True):
            page, at = divmod(int(number[begin]), beside)
            left, top = at * pitch * patch, int(strips.char_top[begin])
            width = min(strips.style.width, own.width - left)
            shown = strips.pixels[strips.char_page[begin], top : top + line, :width]
            pixels[page, :, left : left + width] = shown
            last = int(strips.char_right[begin:end].max())
            mask[page, at * pitch : at * pitch - (-last // patch)] = True
        moved = (number % beside * pitch * patch).astype(np.int32)
        return Strips(
            pixels=pixels,
            patch_mask=mask,
            char_page=(number // beside).astype(np.int32),
            char_left=strips.char_left + moved,
            char_right=strips.char_right + moved,
            char_top=np.zeros_like(strips.char_top),
            missing=Counter(),
            style=own,
        )
