"""BM25: which segments share a question's words, rare ones above all."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["Bm25", "words"]

# Words that say how a question is asked, not what it is about.
_STOP_WORDS = """
    a about after all also am an and any are as at be been before being between but by can could
    did do does doing done for from had has have having he her hers him his how i if in into is
    it its just may me might more most much must my no nor not of on once one only or other our
    out over own same shall she should so some such than that the their them then there these
    they this those through to too under until up us very was we were what when where which
    while who whom whose why will with would you your
    answer question tell please
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())
# Letters and digits of any script; a Han or kana character is a word of its own.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W_\u3040-\u30ff\u3400-\u9fff]+")


def words(text: str) -> list[str]:
    """Words of a text in lower case, plural s taken off, without those that every text has.

    A text of nothing but such words keeps them.
    """
    found = _WORD.findall(text.lower())
    telling = [word for word in found if word not in STOP_WORDS]
    return [_stem(word) for word in telling or found]


def _stem(word: str) -> str:
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-3] + "y" if word.endswith("ies") and len(word) > 4 else word[:-1]
    return word


class Bm25:
    """Scores of a text's segments for any number of questions.

    Source: Robertson and Zaragoza 2009, eq. 3.15, with the inverse document frequency of Lucene,
    log(1 + (S - n + 0.5) / (n + 0.5)), which is never negative. Words are whole words of the text,
    not tokens of a model.

    Args:
        segments: S texts.
        k1: how soon further occurrences stop counting.
        b: how much long segments are held against themselves, 0 to 1.

    Example:
        >>> Bm25(["The lamp is red.", "The door is open."]).scores("Which lamp?").argmax().item()
        0
    """

    def __init__(self, segments: Sequence[str], *, k1: float = 1.2, b: float = 0.75) -> None:
        counts = [Counter(words(segment)) for segment in segments]
        lengths = np.array([count.total() for count in counts], dtype=np.float64)
        self.num_segments = len(counts)
        self._k1 = k1
        self._norm = k1 * (1 - b + b * lengths / max(1e-9, lengths.mean() if len(counts) else 1.0))
        self._found: dict[str, list[tuple[int, int]]] = {}
        for place, count in enumerate(counts):
            for word, times in count.items():
                self._found.setdefault(word, []).append((place, times))

    def scores(self, question: str) -> NDArray[np.float64]:
        """How well each segment fits a question, [S]; 0 where they share no word."""
        total = np.zeros(self.num_segments)
        for word in dict.fromkeys(words(question)):
            held = self._found.get(word)
            if held:
                places, times = np.array(held).T
                rarity = np.log1p((self.num_segments - len(held) + 0.5) / (len(held) + 0.5))
                total[places] += rarity * times * (self._k1 + 1) / (times + self._norm[places])
        return total
