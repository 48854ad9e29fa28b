"""Units of a text that are looked at as a whole: sentences, lines, list items, demonstrations."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

__all__ = ["LONGEST", "segment_starts"]

LONGEST = 64  # tokens; a longer unit is cut at its best place
LONGEST_PAIR = 128  # tokens of a demonstration or a record, which lose their sense when cut
_BLANK_LINES = re.compile(r"\n[^\S\n]*(?:\n[^\S\n]*)+")
_ITEM = re.compile(r"\s*(?:[-*+•–—]|\(?\d{1,3}[.)]|\(?[A-Za-z][.)])\s")
# "Name: ..." or "name = ...", what a line says of one key.
_KEY = re.compile(r"\s*[\"']?(\w[\w .\-/]{0,40}?)[\"']?\s*(?::=|:(?!/)|=(?!=)|\t)")
_STOP = re.compile(r"[.!?…][\"'”’)\]]*(?=\s)|[。！？]")
_STOPPED = re.compile(r"[.!?…。！？][\"'”’)\]]*\s*$")
_SHORT = re.compile(
    r"(?:\b(?:[A-Za-z]|Mr|Mrs|Ms|Dr|Prof|St|Mt|Jr|Sr|vs|etc|cf|ca|approx|No|no|Fig|fig|Vol|vol|pp|"
    r"Inc|Ltd|Co|Gen|Col|Lt|Sgt|Rev|Gov|Sen|Rep|al|Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec)|"
    r"\b[A-Za-z]\.[A-Za-z])\.$"
)

# No line ends so by itself: the next one goes on, whatever it begins with.
_OPEN_END = re.compile(
    r"\b(?:a|an|the|of|to|in|on|at|by|for|from|with|into|and|or|but|as|than|that|which|who|"
    r"is|are|was|were|be|been|has|had|have|his|her|its|their|our|your|this|these|not|"
    r"Mr|Mrs|Ms|Dr|Prof|St)\.?\s*$"
)
SURE_JOINTS = 3  # lines that surely go on, before their margin is believed


def segment_starts(text: str, offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where the units of a text begin, in tokens.

    Blocks of lines that say something of keys ("Review: ...", "Sentiment: ...") stay whole where
    they are short or repeat their first key; hard-wrapped prose is cut into sentences across its
    line ends; other lines are units, cut into sentences. So a key is never apart from its value,
    except where the two are longer than LONGEST_PAIR tokens.

    Args:
        text: the document.
        offsets: int [T, 2], characters of each token, as `tokenise` gives them.

    Returns:
        int64 [S], first token of each unit, ascending, the first is 0; empty for no tokens.

    Example:
        >>> text = "The lamp is red. It is old.\\n- one\\n- two"
        >>> words = np.array([m.span() for m in re.finditer(r"\\s*\\S+", text)])
        >>> segment_starts(text, words).tolist()
        [0, 4, 7, 9]
    """
    if not len(offsets):
        return np.zeros(0, dtype=np.int64)
    begins, ends = offsets[:, 0], offsets[:, 1]
    longest = {0: LONGEST}  # first token of a unit -> how long it may be
    for char, limit in _units(text, ends):
        # A unit begins with the token that shows its first character.
        start = int(np.searchsorted(ends, char, side="right"))
        if start < len(offsets):
            longest[start] = limit
    starts = sorted(longest)
    cut = list(starts)
    for start, stop in zip(starts, [*starts[1:], len(offsets)], strict=True):
        if stop - start > longest[start]:
            cut += _cuts(text, begins, ends, start, stop)
    return np.unique(np.array(cut, dtype=np.int64))


def _units(text: str, ends: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """First character of every unit, blank space before it not counted, and its longest length."""
    blocks, at = [], 0
    for border in [*_BLANK_LINES.finditer(text), None]:
        stop = border.start() if border else len(text)
        if text[at:stop].strip():
            blocks.append((at, text[at:stop]))
        at = border.end() if border else stop
    margin = _margin([block for _, block in blocks])
    firsts = Counter(_key_of(block.lstrip("\n")) for _, block in blocks)
    for at, block in blocks:
        size = int(np.searchsorted(ends, at + len(block)) - np.searchsorted(ends, at))
        is_one_of_many = firsts[_key_of(block.lstrip("\n"))] > 1
        limit = LONGEST_PAIR if is_one_of_many else LONGEST
        yield from _block(block, at, margin, is_whole=size <= limit)


def _margin(blocks: list[str]) -> int:
    """Longest line of a hard-wrapped text, where its lines are as full as they can be; else 0.

    Lines that go on in lower case tell of it. Those that go on with a name or a number are as full.
    """
    sure = [
        (len(line), len(line) + 1 + len(after.split()[0]))
        for block in blocks
        for line, after in itertools.pairwise(filter(str.strip, block.split("\n")))
        if after.lstrip()[0].islower() and not _STOPPED.search(line) and not _ITEM.match(after)
    ]
    longest = max((size for size, _ in sure), default=0)
    full = sum(needed > longest for _, needed in sure)
    is_wrapped = len(sure) >= SURE_JOINTS and 40 <= longest <= 130 and full >= 0.9 * len(sure)
    return longest if is_wrapped else 0


def _goes_on(line: str, after: str, margin: int) -> bool:
    """Whether a line ends where it does only because its next word did not fit."""
    if _STOPPED.search(line) and not _OPEN_END.search(line):
        return False
    first = after.split()[0]
    is_full = len(line) >= 40 and len(line) <= margin < len(line) + 1 + len(first)
    return first[0].islower() or is_full or (len(line) >= 40 and bool(_OPEN_END.search(line)))


def _block(block: str, at: int, margin: int, *, is_whole: bool) -> Iterator[tuple[int, int]]:
    """Units of lines without a blank one between them; `is_whole` is for those about keys."""
    lines = [(m.start(), m.group()) for m in re.finditer(r"[^\n]+", block) if m.group().strip()]
    keys = [_key_of(line) for _, line in lines]
    is_keyed = len(lines) > 1 and keys[0] is not None and keys[-1] is not None
    if is_keyed and (keys.count(keys[0]) > 1 or is_whole):
        for (start, line), key in zip(lines, keys, strict=True):
            if key == keys[0] or start == lines[0][0]:
                yield at + _inked(start, line), LONGEST_PAIR
        return
    if _is_wrapped([line for _, line in lines], margin):
        yield from _sentences(block, at)
        return
    is_opened = False
    for start, line in _joined(lines, margin):
        if is_opened and not _ITEM.match(line):
            is_opened = False  # the value of the line before
            continue
        is_opened = line.rstrip().endswith((":", "=")) and len(line) < 60
        yield from _sentences(line, at + start)


def _key_of(line: str) -> str | None:
    found = _KEY.match(line)
    return found.group(1) if found else None


def _joined(lines: list[tuple[int, str]], margin: int) -> list[tuple[int, str]]:
    """Lines, those that go on in the next one together with it: wrapped list items, say."""
    made = lines[:1]
    for (_, before), (start, line) in itertools.pairwise(lines):
        first, opened = made[-1]
        is_open = before.rstrip()[-1].isalnum() or before.rstrip()[-1] in ",."
        goes_on = len(before) >= 40 and is_open and _goes_on(before, line, margin)
        # Where lines begin in lower case anyway, that says nothing.
        is_prose = not opened.lstrip()[0].islower()
        if goes_on and is_prose and not _ITEM.match(line):
            made[-1] = (first, opened + " " * (start - first - len(opened)) + line)
        else:
            made.append((start, line))
    return made


def _is_wrapped(lines: list[str], margin: int) -> bool:
    """Whether lines end where a margin was, in the middle of sentences."""
    if len(lines) < 2 or any(_ITEM.match(line) for line in lines[1:]):
        return False
    longest = max(map(len, lines))
    if not 40 <= longest <= 130 or min(map(len, lines[:-1])) < 0.6 * longest:
        return False
    pairs = itertools.pairwise(lines)
    joints = [_goes_on(*pair, margin) for pair in pairs if not _STOPPED.search(pair[0])]
    return bool(joints) and sum(joints) >= 0.5 * len(joints)


def _sentences(text: str, at: int) -> Iterator[tuple[int, int]]:
    """First character of every sentence, and its longest length; `at` is where the text begins."""
    if not text.strip():
        return
    first = _inked(0, text)
    yield at + first, LONGEST
    item = _ITEM.match(text)
    for stop in _STOP.finditer(text, item.end() if item else first):
        if stop.group().startswith(".") and _SHORT.search(
            text[max(0, stop.end() - 8) : stop.end()]
        ):
            continue
        rest = text[stop.end() :].lstrip()
        if rest and not rest[0].islower():
            yield at + len(text) - len(rest), LONGEST


def _inked(start: int, line: str) -> int:
    """Of the first character of a line that is not blank."""
    return start + len(line) - len(line.lstrip())


def _cuts(
    text: str, begins: NDArray[np.int64], ends: NDArray[np.int64], start: int, stop: int
) -> list[int]:
    """Where to cut a unit that is too long: pieces of LONGEST / 2 to LONGEST tokens."""
    found = []
    while stop - start > LONGEST:
        # The last piece is not to be a crumb.
        latest = min(start + LONGEST, stop - min(LONGEST // 4, (stop - start) // 2))
        places = range(start + LONGEST // 2, latest + 1)
        start = max(places, key=lambda i: (_goodness(text, begins, ends, i), i))
        found.append(start)
    return found


def _goodness(text: str, begins: NDArray[np.int64], ends: NDArray[np.int64], token: int) -> int:
    """How well a text can be cut before a token."""
    before = text[begins[token - 1] : ends[token - 1]]
    after = text[begins[token] : ends[token]]
    last = before.rstrip(" ")[-1:]
    if "\n" in after[:1] or last == "\n":
        return 4
    is_apart = before[-1:].isspace() or after[:1].isspace() or ends[token - 1] < begins[token]
    if not is_apart:
        return 0
    return 3 if last in ";.!?|" else 2 if last in ",)–—" else 1
