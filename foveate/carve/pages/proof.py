"""What of a text can be read on its pages: proofread before a model is shown them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from foveate.carve.pages.exact import MOST_CHARS
from foveate.text_image.render import Renderer
from foveate.text_image.strip_style import StripStyle
from foveate.text_image.strips import Strips

__all__ = ["Legibility", "Proofreader", "proofread"]

_WORD = re.compile(r"\S+")
_SIGN = re.compile(r"\w")


class Proofreader(Protocol):
    """Reads drawn text, character by character."""

    def why_not(self, style: StripStyle) -> str:
        """Why it cannot judge pages of this style; "" if it can."""

    def is_right(self, strips: Strips, text: str) -> npt.NDArray[np.bool_]:
        """Whether each character was read as what was drawn, bool [C]; True where it is no judge.

        Args:
            strips: pages of `text`.
            text: C characters.
        """


@dataclass(frozen=True, kw_only=True)
class Legibility:
    """How legible pages are to a reader of drawn text.

    Args:
        words: between blanks, that were looked at.
        misread: words with a character that was read as another one, with their counts.
        note: why nothing was looked at, or "".
    """

    words: int = 0
    misread: Mapping[str, int] = field(default_factory=dict)
    note: str = ""

    @property
    def share(self) -> float | None:
        """Of the words that were read right; None where none was looked at."""
        return 1 - sum(self.misread.values()) / self.words if self.words else None

    @property
    def marks(self) -> tuple[str, ...]:
        """Misread words as ExactRules' marks: to be handed over as text beside the pages."""
        # A mark is found as a whole word, so signs alone cannot be one, nor a text without blanks.
        words = dict.fromkeys(map(_bare, self.misread))
        return tuple(word for word in words if 0 < len(word) <= MOST_CHARS)

    def to_dict(self) -> dict[str, Any]:
        """All fields and the share."""
        return {**asdict(self), "misread": dict(self.misread), "share": self.share}

    def __str__(self) -> str:
        if self.share is None:
            return f"not proofread: {self.note}" if self.note else "nothing to proofread"
        shown = ", ".join(list(self.misread)[:8]) + (", ..." if len(self.misread) > 8 else "")
        right = f"{100 * self.share:.1f} % of {self.words} words legible"
        return f"{right}; misread: {shown}" if shown else right


def proofread(reader: Proofreader, style: StripStyle | None, text: str) -> Legibility:
    """Draw a text and have it read, before a model is asked to.

    Args:
        reader: of drawn text.
        style: of the pages; None where the layout draws in a way of its own.
        text: what they show.
    """
    note = "these pages are no plain text" if style is None else reader.why_not(style)
    if style is None or note:
        return Legibility(note=note)
    words, misread, start = 0, Counter[str](), 0
    for strips in Renderer(style).stream([text]):
        part = text[start : start + len(strips.char_page)]
        right = reader.is_right(strips, part)
        for found in _WORD.finditer(part):
            words += 1
            if not right[found.start() : found.end()].all():
                misread[found.group()] += 1
        start += len(part)
    return Legibility(words=words, misread=dict(misread.most_common()))


def _bare(word: str) -> str:
    """A word without the signs around it; "" if that is all there is."""
    inside = [found.start() for found in _SIGN.finditer(word)]
    return word[inside[0] : inside[-1] + 1] if inside else ""
