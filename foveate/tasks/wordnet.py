"""WordNet's files (Debian wordnet-base): glosses, and other words for a word, by halves of synsets.

Training draws words from one half of the synsets only, so that questions made of the other half
measure what was not taught.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from foveate.errors import InputError

__all__ = ["Synset", "WordNet", "stem"]

_POS = ("noun", "verb", "adj", "adv")
_ENDINGS = (("ies", "y"), ("es", "e"), ("es", ""), ("s", ""), ("ing", "e"), ("ing", ""),
            ("ed", "e"), ("ed", ""), ("er", ""), ("est", ""))  # fmt: skip
_SENSES = 2  # of a word that count as what it means


@dataclass(frozen=True, kw_only=True)
class Synset:
    """One meaning: its words, what it means, sentences that use it."""

    words: tuple[str, ...]
    group: str
    gloss: str
    examples: tuple[str, ...]
    key: str


class WordNet:
    """Synsets of one half, or of both.

    Args:
        folder: with data.noun, index.noun and so on.
        half: 0 or 1; None is both.

    Raises:
        InputError: a file is missing.
    """

    def __init__(self, folder: str | Path, half: int | None = None) -> None:
        self.synsets: dict[str, Synset] = {}
        self._meanings: dict[str, list[str]] = defaultdict(list)
        for pos in _POS:
            data, index = Path(folder) / f"data.{pos}", Path(folder) / f"index.{pos}"
            if not data.is_file() or not index.is_file():
                raise InputError(
                    f"{str(folder)!r} lacks data.{pos} or index.{pos}; unpack Debian's "
                    "wordnet-base and give its usr/share/wordnet."
                )
            for synset in _synsets(data, pos):
                # Every other offset, by its digits: even and odd are the halves.
                if half is None or int(synset.key[len(pos) :]) // 7 % 2 == half:
                    self.synsets[synset.key] = synset
            for line in index.read_text(encoding="utf-8").splitlines():
                if not line.startswith(" "):
                    fields = line.split()
                    offsets = fields[-int(fields[2]) :]
                    self._meanings[fields[0]] += [pos + one for one in offsets[:_SENSES]]

    def other_words(self, word: str) -> list[str]:
        """Words of the same meaning, none that shares its stem; [] where there is none."""
        found: list[str] = []
        for form in _forms(word.lower()):
            for key in self._meanings.get(form, ()):
                if key in self.synsets:
                    found += [w for w in self.synsets[key].words if stem(w) != stem(word)]
            if found:
                break
        return list(dict.fromkeys(found))


def stem(word: str) -> str:
    """A word without its ending, lower case: enough to say that two words share a root."""
    word = re.sub(r"\W", "", word.lower())
    for ending in ("ations", "ation", "ings", "ing", "edly", "ed", "ies", "es", "ers", "er", "ly",
                   "s", "e", "y"):  # fmt: skip
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)][:6]
    return word[:6]


def _forms(word: str) -> Iterator[str]:
    yield word
    for ending, instead in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 2:
            base = word[: -len(ending)]
            yield base + instead
            if not instead and len(base) > 2 and base[-1] == base[-2]:
                yield base[:-1]


def _synsets(file: Path, pos: str) -> Iterator[Synset]:
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.startswith("  ") or " | " not in line:
            continue
        facts, gloss = line.split(" | ", 1)
        fields = facts.split()
        words = tuple(
            re.sub(r"\(\w+\)$", "", fields[4 + 2 * i]).replace("_", " ")
            for i in range(int(fields[3], 16))
        )
        yield Synset(
            words=words,
            group=pos + fields[1],
            gloss=re.split(r'; "', gloss)[0].strip(" ;"),
            examples=tuple(re.findall(r'"([^"]{12,200})"', gloss)),
            key=pos + fields[0],
        )
