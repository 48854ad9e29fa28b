"""Exact strings: what is found, where, and what a budget leaves out."""

from __future__ import annotations

import itertools
import time

import pytest

from foveate.carve.pages.exact import KINDS, ExactList, ExactRules, find_exact, list_by_page
from foveate.errors import InputError


@pytest.mark.parametrize(
    ("text", "kind", "exact"),
    [
        ("see https://a.b/c?d=1).", "url", "https://a.b/c?d=1"),
        ("at www.example.org, then", "url", "www.example.org"),
        ("(anna@x.org)", "email", "anna@x.org"),
        ("to a.b+c@d.co.uk.", "email", "a.b+c@d.co.uk"),
        ("at 0xdeadBEEF now", "hex", "0xdeadBEEF"),
        ("sha d41d8cd98f00b204 ok", "hex", "d41d8cd98f00b204"),
        ("colour #ffcc00.", "hex", "#ffcc00"),
        ("id 01234567-89ab-cdef-0123-456789abcdef", "hex", "01234567-89ab-cdef-0123-456789abcdef"),
        ("mac 00:1b:44:11:3a:b7", "hex", "00:1b:44:11:3a:b7"),
        ("on 2024-05-17.", "date", "2024-05-17"),
        ("2024-05-17T12:30:00Z it", "date", "2024-05-17T12:30:00Z"),
        ("am 17.05.2024.", "date", "17.05.2024"),
        ("on 5/17/2024", "date", "5/17/2024"),
        ("on 17 May 2024,", "date", "17 May 2024"),
        ("on March 3, 1999.", "date", "March 3, 1999"),
        ("at 9:05 pm", "date", "9:05 pm"),
        ("call foo_bar()", "identifier", "foo_bar"),
        ("call camelCase now", "identifier", "camelCase"),
        ("use v1.2.3.", "identifier", "v1.2.3"),
        ("host 192.168.0.1:", "identifier", "192.168.0.1"),
        ("edit main.py.", "identifier", "main.py"),
        ("in /usr/lib/x.so", "identifier", "/usr/lib/x.so"),
        ("a 16-bit word", "identifier", "16-bit"),
        ("tel 555-1234", "identifier", "555-1234"),
        ("paid $1,234.50.", "number", "$1,234.50"),
        ("was 1.234,56", "number", "1.234,56"),
        ("50 % of", "number", "50 %"),
        ("at -12 degrees", "number", "-12"),
        ("3 apples", "number", "3"),
        ("第4711号", "number", "4711"),
    ],
)
def test_kinds(text: str, kind: str, exact: str) -> None:
    (found,) = find_exact(text)
    assert (found.kind, found.text) == (kind, exact)
    assert text[found.start : found.stop] == exact
    others = tuple(k for k in KINDS if k != kind)
    assert all(f.kind != kind for f in find_exact(text, ExactRules(kinds=others)))


@pytest.mark.parametrize(
    "text",
    ["", " \n", "and/or", "e.g. this", "the U.S. army", "a decade, a facade", "Hello World.", "--"],
)
def test_ordinary_words_are_not_exact(text: str) -> None:
    assert find_exact(text) == []


def test_a_part_of_a_word_is_no_number() -> None:
    assert find_exact("v1.2 x,3 a5", ExactRules(kinds=("number",))) == []


def test_longest_wins_and_order_is_kept() -> None:
    text = "4711 anna@x.org v2 Anna 4711"
    found = find_exact(text, ExactRules(marked=("anna", "Anna")))
    assert [(f.kind, f.text) for f in found] == [
        ("number", "4711"),
        ("email", "anna@x.org"),
        ("identifier", "v2"),
        ("marked", "Anna"),
        ("number", "4711"),
    ]
    assert all(a.stop <= b.start for a, b in itertools.pairwise(found))


@pytest.mark.parametrize(
    ("mark", "text", "exact"),
    [
        ("Anna Müller", 'dear "Anna\n  Müller"', ["Anna Müller"]),
        ("Ann", "Anna, Ann, Annie", ["Ann"]),
        ("C++", "C++ is not C", ["C++"]),
        ("1.5", "1.5 but not 1x5", ["1.5"]),
        ("/[A-Z]{3,}/", "NATO and the EU", ["NATO"]),
        ("/(?i)nato/", "Nato", ["Nato"]),
        ("/x*y/", "xxy xx", ["xxy"]),
    ],
)
def test_marks(mark: str, text: str, exact: list[str]) -> None:
    found = find_exact(text, ExactRules(kinds=(), marked=(mark,)))
    assert [f.text for f in found] == exact
    assert {f.kind for f in found} == {"marked"}


def test_listed_once_on_the_first_page() -> None:
    text = "4711 0xff | 4711 12 | nothing here | 0xff 13"
    pages = [(0, 10), (10, 20), (20, 35), (35, len(text))]
    listed = list_by_page(find_exact(text), pages)
    assert listed.text == "Page 1: 4711, 0xff\nPage 2: 12\nPage 4: 13"
    assert (listed.num_kept, listed.num_repeats, listed.left_out) == (4, 2, ())


def test_budget_keeps_the_most_important_and_tells_the_rest() -> None:
    text = "12 13 0xff Anna 14 a@b.cd"
    found = find_exact(text, ExactRules(marked=("Anna",)))
    pages = [(0, 6), (6, len(text))]

    def listed(max_tokens: int | None) -> ExactList:
        return list_by_page(
            found, pages, max_tokens=max_tokens, count_tokens=lambda text: len(text.split())
        )

    assert listed(None).text == "Page 1: 12, 13\nPage 2: 0xff, Anna, 14, a@b.cd"
    short = listed(5)
    assert short.text == "Page 2: 0xff, Anna, a@b.cd"
    assert [item.text for item in short.left_out] == ["12", "13", "14"]
    assert [text[item.start : item.stop] for item in short.left_out] == ["12", "13", "14"]
    nothing = listed(0)
    assert (nothing.text, nothing.num_kept, len(nothing.left_out)) == ("", 0, 6)


@pytest.mark.parametrize("max_tokens", range(12))
def test_nothing_is_lost_at_any_budget(max_tokens: int) -> None:
    text = " ".join(f"{i * 37} id_{i}" for i in range(5))
    found = find_exact(text)
    listed = list_by_page(
        found, [(0, 20), (20, 99)], max_tokens=max_tokens, count_tokens=lambda t: len(t.split())
    )
    assert len(listed.text.split()) <= max_tokens
    said = {string for page in listed.pages for string in page}
    assert said | {item.text for item in listed.left_out} == {item.text for item in found}
    assert listed.num_kept + len(listed.left_out) + listed.num_repeats == len(found)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kinds": ("zip",)}, "kind of exact strings 'zip' is unknown; use url, email"),
        ({"marked": ("",)}, "got an empty pattern to keep"),
        ({"marked": ("//",)}, "got an empty pattern to keep"),
        ({"marked": ("/(/",)}, "pattern /(/ is no regular expression"),
        ({"marked": ("/a*/",)}, "matches the empty string; make it ask for more"),
        ({"max_tokens": -1}, "max_tokens=-1 is below 0"),
    ],
)
def test_bad_rules(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as raised:
        ExactRules(**settings)  # type: ignore[arg-type]
    assert message in str(raised.value)


def test_rules_survive_a_dict() -> None:
    rules = ExactRules(kinds=("hex", "url"), marked=("Anna", "/x+/"), max_tokens=9)
    assert ExactRules.from_dict(rules.to_dict()) == rules


@pytest.mark.parametrize("piece", ["-", "a-", "a.", "/a", "1,", "12", "ab", "@a", "f1", "a@", ":1"])
def test_hostile_text_takes_linear_time(piece: str) -> None:
    """Quadratic search would take many times as long."""
    text = piece * (40_000 // len(piece)) + "!"
    started = time.perf_counter()
    find_exact(text)
    assert time.perf_counter() - started < 3
