"""Words of a text that say something, for telling whether two texts share any."""

from __future__ import annotations

import re

__all__ = ["content_words"]

# Function words, and what every question is made of.
_STOP_WORDS = """
    a about after all along also although am an and another any are around as at away be because
    been before being below beneath beside besides between both but by can cannot could did do
    does doing done down during each either else ever every few for from further give given gave
    had has have having he her here hers him his how however i if in inside instead into is it
    its itself just kind least less let like long made make makes many may me might more most
    much must my near neither no nobody nor not nothing now of off on once one only or other
    others our out over own per rather same she should since so some sort still such take taken
    than that the their them themselves then there these they this those through to too took
    toward under until up upon us very was we were what when where whether which while who whom
    whose why will with within without would yet you your
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())


def content_words(text: str) -> frozenset[str]:
    """Lower-case words and numbers without function words, their endings (s, ed, ing ...) cut off.

    The cut is rough, so that two forms of a word rather count as one than as two.
    """
    found = re.findall(r"\w+", text.casefold().replace("_", " "))
    return frozenset(_stem(word) for word in found if word not in STOP_WORDS and len(word) > 1)


def _stem(word: str) -> str:
    if word.isdigit():
        return word
    for ending in ("ations", "ation", "ments", "ment", "ings", "ing", "ers", "ies", "ed", "er",
                   "es", "ly", "al", "s", "y", "e"):  # fmt: skip
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: len(word) - len(ending)]
    return word
