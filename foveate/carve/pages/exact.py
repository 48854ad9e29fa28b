"""Strings that must survive to the letter: found in the text, listed page by page beside images."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import regex

from foveate.errors import InputError

Pattern = Any  # re.Pattern of ours, regex.Pattern of a user's own expression

MARKED = "marked"
MOST_CHARS = 1000  # of a pattern
MOST_COPIES = 10_000  # of anything, by counted repeats
MATCH_SECONDS = 2.0  # that a user's expression may take on a text
_BLANKS = re.compile(r"\s+")
KINDS = ("url", "email", "hex", "date", "identifier", "number")
# Most important first: what the user marked, then what nobody can guess from context.
_RANK = {kind: rank for rank, kind in enumerate((MARKED, *KINDS))}

# Latin letters only: in scripts without spaces a number stands right beside letters.
_WORD = r"A-Za-z0-9_À-ɏ"
_OPEN, _SHUT = rf"(?<![{_WORD}])", rf"(?![{_WORD}])"
_MONTH = (
    r"(?:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?|"
    r"Sept?(?:ember)?|Oct(?:ober)?|Nov(?:ember)?|Dec(?:ember)?)\.?"
)
_CLOCK = r"\d{1,2}:\d{2}(?::\d{2}(?:[.,]\d+)?)?(?:\s?[ap]\.?m\.?|Z|[+-]\d{2}:?\d{2})?"
_DATES = "|".join(
    (
        rf"\d{{4}}-\d{{2}}-\d{{2}}(?:[T ]{_CLOCK})?",
        r"\d{1,2}[./]\d{1,2}[./](?:\d{4}|\d{2})",
        rf"\d{{1,2}}\.? {_MONTH}(?: \d{{4}})?",
        rf"{_MONTH} \d{{1,2}}(?:, \d{{4}})?",
        _CLOCK,
    )
)
_HEXES = "|".join(
    (
        r"0[xX][0-9a-fA-F]+",
        r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}",
        r"[0-9a-fA-F]{2}(?:[:-][0-9a-fA-F]{2}){5}",
        r"(?=[a-fA-F]*[0-9])(?=[0-9]*[a-fA-F])[0-9a-fA-F]{6,}",
    )
)
_PATTERNS = {
    "url": re.compile(
        rf"""{_OPEN}(?:[a-z][a-z0-9+]{{0,15}}://|www\.)[^\s<>"']*[^\s<>"'.,;:!?)\]}}]"""
    ),
    "email": re.compile(rf"{_OPEN}[{_WORD}.+-]{{0,63}}[{_WORD}]@[{_WORD}-]+(?:\.[{_WORD}-]+)+"),
    "hex": re.compile(rf"{_OPEN}(?:{_HEXES}){_SHUT}|#(?:[0-9a-fA-F]{{6}}|[0-9a-fA-F]{{3}}){_SHUT}"),
    "identifier": re.compile(
        rf"{_OPEN}[{_WORD}]+(?:[-./:@+\\]+[{_WORD}]+)*|(?<![{_WORD}/])[~.]{{0,2}}(?:/[{_WORD}.+-]+){{2,}}"
    ),
    "date": re.compile(rf"{_OPEN}(?:{_DATES}){_SHUT}", re.IGNORECASE),
    "number": re.compile(
        rf"{_OPEN}(?<![{_WORD}][.,'’])[-+−]?[$€£¥]?\d+(?:[.,'’]\d+)*(?:[eE][-+]?\d+)?(?:\s?[%‰])?{_SHUT}"
    ),
}


@dataclass(frozen=True, kw_only=True)
class ExactRules:
    """Which strings to keep as text.

    Args:
        kinds: of KINDS: url, email, hex (0x.., colours, digests, UUIDs), date (and times),
            identifier (letters with digits, snake_case, camelCase, dotted names, versions, paths),
            number.
        marked: more of the user's own: a name is found as whole words, whatever the white space
            between them; `/.../` is a regular expression.
        max_tokens: budget of the list, in the model's tokens; None keeps everything.

    Raises:
        InputError: an unknown kind, a pattern that is empty, does not compile or matches nothing
            at all, or a negative budget.
    """

    kinds: tuple[str, ...] = KINDS
    marked: tuple[str, ...] = ()
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        for kind in self.kinds:
            if kind not in KINDS:
                raise InputError(
                    f"kind of exact strings {kind!r} is unknown; use {', '.join(KINDS)}."
                )
        if self.max_tokens is not None and self.max_tokens < 0:
            raise InputError(f"max_tokens={self.max_tokens} is below 0; use 0 or more, or None.")
        for pattern in self.marked:
            compile_mark(pattern)

    def to_dict(self) -> dict[str, Any]:
        return {
            "kinds": list(self.kinds),
            "marked": list(self.marked),
            "max_tokens": self.max_tokens,
        }

    @classmethod
    def from_dict(cls, settings: dict[str, Any]) -> ExactRules:
        """Build from `to_dict` output."""
        return cls(
            kinds=tuple(settings["kinds"]),
            marked=tuple(settings["marked"]),
            max_tokens=settings["max_tokens"],
        )


@dataclass(frozen=True)
class ExactString:
    """One place in the text: text[start:stop], with line breaks inside it written as one space."""

    text: str
    kind: str
    start: int
    stop: int


@dataclass(frozen=True)
class ExactList:
    """What is kept, page by page, and what the budget left out.

    Args:
        pages: strings of each page, in order of appearance, each string once in the whole list.
        left_out: strings that the budget had no room for, in order of appearance.
        num_repeats: places whose string is already in the list (or left out) elsewhere.
    """

    pages: tuple[tuple[str, ...], ...]
    left_out: tuple[ExactString, ...] = ()
    num_repeats: int = 0

    @property
    def num_kept(self) -> int:
        return sum(len(page) for page in self.pages)

    @property
    def text(self) -> str:
        """`Page 1: 4711, 0xdeadbeef`, a line for each page that has any; "" if none has."""
        lines = enumerate(self.pages, start=1)
        return "\n".join(f"Page {i}: {', '.join(page)}" for i, page in lines if page)


def compile_mark(pattern: str) -> Pattern:
    """The regular expression that a user's mark stands for, see ExactRules.

    Raises:
        InputError: it is empty or too long, does not compile, or matches the empty string.
    """
    if len(pattern) > MOST_CHARS:
        raise InputError(
            f"a pattern to keep has {len(pattern):,} characters, above the limit of "
            f"{MOST_CHARS:,}; give several shorter ones."
        )
    if not pattern.strip() or pattern == "//":
        raise InputError("got an empty pattern to keep; give a name or /a regular expression/.")
    if len(pattern) > 2 and pattern[0] == pattern[-1] == "/":
        return _compile_expression(pattern)
    words = r"\s+".join(map(re.escape, pattern.split()))
    # A border is needed only beside a letter or digit: C++ has none after it.
    before = _OPEN if re.match(rf"[{_WORD}]", pattern.lstrip()) else ""
    after = _SHUT if re.match(rf"[{_WORD}]", pattern.rstrip()[-1]) else ""
    return re.compile(before + words + after)


def _compile_expression(pattern: str) -> Pattern:
    if (copies := _copies(pattern)) > MOST_COPIES:
        raise InputError(
            f"pattern {pattern[:80]} is too much: its counted repeats multiply to {copies:,}, "
            f"above the limit of {MOST_COPIES:,}; lower them."
        )
    try:
        # Not `re`: its matching has no limit of time, and some patterns take forever.
        compiled = regex.compile(pattern[1:-1])
    except (regex.error, OverflowError, RecursionError, MemoryError, ValueError) as error:
        reason = str(error) or type(error).__name__
        raise InputError(
            f"pattern {pattern[:80]} is no regular expression ({reason}); leave out the slashes to "
            "mark a plain name."
        ) from error
    if compiled.fullmatch("", timeout=MATCH_SECONDS):
        raise InputError(f"pattern {pattern} matches the empty string; make it ask for more.")
    return compiled


def _copies(pattern: str) -> int:
    """What counted repeats may multiply to: compiling unrolls them, without a limit of time."""
    product = 1
    for low, high in re.findall(r"\{(\d*)(?:,(\d*))?\}", pattern):
        product *= max(1, int((low or "0")[:12]), int((high or "0")[:12]))
    return product


def find_exact(text: str, rules: ExactRules | None = None) -> list[ExactString]:
    """All exact strings of `text`, in order, without overlaps: of overlapping ones the longest.

    Args:
        text: the document.
        rules: what to look for; None looks for all kinds.
    """
    rules = rules or ExactRules()
    found = [item for mark in rules.marked for item in _matches(text, MARKED, compile_mark(mark))]
    for kind in rules.kinds:
        matches = _matches(text, kind, _PATTERNS[kind])
        found += filter(_is_identifier, matches) if kind == "identifier" else matches
    found.sort(key=lambda item: (item.start - item.stop, _RANK[item.kind], item.start))
    taken = bytearray(len(text))
    kept = []
    for item in found:
        # Longer ones came first, so an overlap covers one of the two ends.
        if not (taken[item.start] or taken[item.stop - 1]):
            taken[item.start : item.stop] = b"\1" * (item.stop - item.start)
            kept.append(item)
    return sorted(kept, key=lambda item: item.start)


def list_by_page(
    found: Sequence[ExactString],
    pages: Sequence[tuple[int, int]],
    *,
    max_tokens: int | None = None,
    count_tokens: Callable[[str], int] = len,
) -> ExactList:
    """Sort strings into the pages they start on, without repeats, and within a budget.

    When the budget is short, marked strings stay first, then the kinds in the order of KINDS, the
    earlier strings of a kind before the later ones.

    Args:
        found: from `find_exact`, in order.
        pages: (start, stop) characters of each page, ascending.
        max_tokens: budget of the list's text; None keeps everything.
        count_tokens: tokens of a text in the model's own tokenizer.

    Raises:
        InputError: max_tokens is negative.
    """
    if max_tokens is not None and max_tokens < 0:
        raise InputError(f"max_tokens={max_tokens} is below 0; use 0 or more, or None.")
    first: dict[str, ExactString] = {}
    for item in found:
        known = first.setdefault(item.text, item)
        if _RANK[item.kind] < _RANK[known.kind]:
            first[item.text] = ExactString(known.text, item.kind, known.start, known.stop)
    ranked = sorted(first.values(), key=lambda item: (_RANK[item.kind], item.start))
    fits = len(ranked)
    if max_tokens is not None:
        # Tokens grow with every string added, so the last list that fits is found by halving.
        low, high = 0, len(ranked)
        while low < high:
            middle = (low + high + 1) // 2
            size = count_tokens(ExactList(_sorted_into(pages, ranked[:middle])).text)
            low, high = (middle, high) if size <= max_tokens else (low, middle - 1)
        fits = low
    left_out = sorted(ranked[fits:], key=lambda item: item.start)
    return ExactList(
        _sorted_into(pages, ranked[:fits]), tuple(left_out), num_repeats=len(found) - len(first)
    )


def _sorted_into(
    pages: Sequence[tuple[int, int]], strings: Sequence[ExactString]
) -> tuple[tuple[str, ...], ...]:
    listed: list[list[str]] = [[] for _ in pages]
    page = 0
    for item in sorted(strings, key=lambda item: item.start):
        while page + 1 < len(pages) and item.start >= pages[page + 1][0]:
            page += 1
        listed[page].append(item.text)
    return tuple(tuple(page) for page in listed)


def _matches(text: str, kind: str, pattern: Pattern) -> Iterator[ExactString]:
    limit = {} if isinstance(pattern, re.Pattern) else {"timeout": MATCH_SECONDS}
    try:
        for match in pattern.finditer(text, **limit):
            if match.end() > match.start():
                said = _BLANKS.sub(_joined, match.group())
                yield ExactString(said, kind, match.start(), match.end())
    except TimeoutError:
        raise InputError(
            f"pattern /{pattern.pattern}/ takes more than {MATCH_SECONDS:g} s on this text; make "
            "it simpler (no repeat inside a repeat)."
        ) from None


def _joined(blanks: re.Match[str]) -> str:
    """White space with a line end in it is one space."""
    return " " if "\n" in blanks[0] or "\r" in blanks[0] else blanks[0]


def _is_identifier(item: ExactString) -> bool:
    """Whether a run of word characters and joints is more than an ordinary word or number."""
    text = item.text
    has_digit, has_letter = re.search(r"\d", text), re.search(r"[^\W\d_]", text)
    if has_digit and (has_letter or re.search(r"[-/:@+\\_]|\..*\.", text)):
        return True
    if "_" in text.strip("_") or re.search(r"[a-zß-ÿ][A-ZÀ-Þ]", text) or "/" in text[:3]:
        return True
    parts = text.split(".")  # a dotted name, but not "e.g" or "U.S"
    return len(parts) > 1 and all(len(part) > 1 for part in parts) and not text.isnumeric()
