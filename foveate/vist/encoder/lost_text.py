"""Characters of a text that do not reach a model through its pictures."""

from __future__ import annotations

from collections import Counter
from typing import Any

from foveate.errors import InputError
from foveate.text_image.render import Renderer
from foveate.vist.encoder.characters import reads_characters
from foveate.vist.encoder.labels import OTHER, character_classes

__all__ = ["MOST_LOST", "check_lost", "lost_characters"]

MOST_LOST = 0.2  # of the characters: what is said about more than that is invented
SHOWN = 8


def lost_characters(encoder: Any, text: str) -> Counter[str]:
    """Characters that no font of the encoder's style has, or that it cannot tell from others.

    Args:
        encoder: what reads the pictures.
        text: what is drawn on them.

    Returns:
        Those characters with their counts, the most frequent first.
    """
    if reads_characters(encoder):
        unknown = (character_classes(text) == OTHER).nonzero()[0]
        lost = Counter(text[place] for place in unknown.tolist())
    else:
        lost = Counter()
        for strips in Renderer(encoder.style).stream([text]):
            lost.update(strips.missing)
    return Counter(dict(lost.most_common()))


def check_lost(lost: Counter[str], num_chars: int, most: float) -> None:
    """Raise InputError where too much of a text is lost for an answer to rest on it.

    Args:
        lost: of `lost_characters`.
        num_chars: of the text.
        most: the share that may be.
    """
    share = lost.total() / max(1, num_chars)
    if share <= most:
        return
    shown = ", ".join(_shown(char) for char in list(lost)[:SHOWN])
    raise InputError(
        f"{lost.total():,} of {num_chars:,} characters ({100 * share:.0f} %) cannot be shown to "
        f"this model ({shown}), above the limit of {100 * most:g} %: it would answer from what is "
        "left. Use a model that reads this script, or allow it (--allow-lost, most_lost=1.0)."
    )


def _shown(char: str) -> str:
    code = f"U+{ord(char):04X}"
    return f"{code} {char}" if char.isprintable() else code
