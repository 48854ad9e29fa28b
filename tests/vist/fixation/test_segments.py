"""Units of a text: whole sentences, lines, pairs and demonstrations, none too long."""

from __future__ import annotations

import re
import textwrap

import numpy as np
import pytest

from foveate.vist.fixation.segments import LONGEST, LONGEST_PAIR, segment_starts


def units(text: str) -> list[str]:
    """Segments of a text whose tokens are words with the blank space before them."""
    spans = [m.span() for m in re.finditer(r"\s*\S+", text)]
    offsets = np.array(spans, dtype=np.int64).reshape(-1, 2)
    starts = segment_starts(text, offsets)
    assert starts.dtype == np.int64
    stops = [*starts[1:], len(offsets)]
    return [text[spans[a][0] : spans[b - 1][1]].strip() for a, b in zip(starts, stops, strict=True)]


DEMONSTRATIONS = [
    "Review: a fine film\nSentiment: good",
    "Review: It is long. Bad.\nSentiment: bad",
]
WRAPPED = """The first sentence of this paragraph runs over the end
of its line and stops here. The second one does the
same thing and stops there."""

SHORT_SENTENCES = """The lamp is old. Our keeper is Ada Hay; her number
is 461. She comes at nine. Please clear the yard beside
the tower before that."""

ITEMS = """- The first item wraps over the line because it is so
  very long that it must. It has more.
- The second is short"""
LOWER = """sshd accepted a password for the keeper from 10.0.0.7
sshd is idle
sshd closed the connection of the keeper from 10.0.0.7"""

OPEN_ENDS = """The lamp was lit in the evening of the fourth of
May by its keeper, who was called Ada Hay and
Bergen was her home."""
PARAGRAPHS = (
    "The harbour of the town was dredged in the year that the old lighthouse fell, and for two "
    "winters no boat could enter it. In those winters the fishermen landed at Stavanger, where the "
    "quays belonged to a company of merchants from Bremen and to the heirs of its founder.",
    "At the end of the second winter the council asked old Doctor Magnus Aas to survey the wreck, "
    "and wrote to the engineer Harald Lund, whose plans for a breakwater had been refused.",
)
FILLED = (
    "\n\n".join(textwrap.fill(paragraph, 60) for paragraph in PARAGRAPHS)
    + """

- The first contract was given to the brothers from Arendal
  Nils and Per Dahl, who had built the mole of the fortress.
- The second one was not given to anybody
  Later it was torn up."""
)
NAMES = """Anna Maria Larsen of the parish of Saint Olaf, widow
Bernt Olsen of the same parish, a rope maker by trade
Carl Magnus Lie of the upper town, a clerk of the court"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It is red. It is old! Is it?", ["It is red.", "It is old!", "Is it?"]),
        ('Mr. Hay left. "Why?" he asked.', ["Mr. Hay left.", '"Why?" he asked.']),
        ("On Jan. 5 it cost 3.5 marks. Fine.", ["On Jan. 5 it cost 3.5 marks.", "Fine."]),
        ("1. Open it. Wait.\n2. Shut it.", ["1. Open it.", "Wait.", "2. Shut it."]),
        ("\n\n".join(DEMONSTRATIONS), DEMONSTRATIONS),
        ("\n".join(DEMONSTRATIONS), DEMONSTRATIONS),
        ("Password:\n  hunter two\nThe end.", ["Password:\n  hunter two", "The end."]),
        ("10:01 INFO up\n10:02 WARN low", ["10:01 INFO up", "10:02 WARN low"]),
        (WRAPPED, WRAPPED.replace(". ", ".|").split("|")),
        (SHORT_SENTENCES, SHORT_SENTENCES.replace(". ", ".|").split("|")),
        (ITEMS, ITEMS.replace("must. ", "must.|").replace("\n- ", "|- ").split("|")),
        (LOWER, LOWER.split("\n")),
        (OPEN_ENDS, [OPEN_ENDS]),
        (NAMES, NAMES.split("\n")),
        ("| a | 1 |\n| b | 2 |", ["| a | 1 |", "| b | 2 |"]),
    ],
)
def test_units(text: str, expected: list[str]) -> None:
    assert units(text) == expected


def test_wrapped_lines_that_go_on_with_a_name_are_no_units() -> None:
    assert FILLED.count("old Doctor\nMagnus") == 1  # the place this is about
    found = [" ".join(unit.split()) for unit in units(FILLED)]
    first, second = (paragraph.replace(". ", ".|").split("|") for paragraph in PARAGRAPHS)
    assert found == [
        *first,
        *second,
        "- The first contract was given to the brothers from Arendal Nils and Per Dahl, who had "
        "built the mole of the fortress.",
        "- The second one was not given to anybody",
        "Later it was torn up.",
    ]


def test_a_long_sentence_is_cut_where_it_pauses() -> None:
    text = "word " * 40 + "pause; " + "word " * 50
    cut = units(text)
    assert [len(unit.split()) for unit in cut] == [41, 50]
    assert cut[0].endswith("pause;")


@pytest.mark.parametrize("count", [1, LONGEST, LONGEST + 1, 500])
def test_no_unit_is_too_long_or_a_crumb(count: int) -> None:
    lengths = [len(unit.split()) for unit in units("word " * count)]
    assert sum(lengths) == count
    assert max(lengths) <= LONGEST
    assert min(lengths) >= min(count, LONGEST // 4)


@pytest.mark.parametrize("count", [LONGEST + 20, LONGEST_PAIR + 20])
def test_demonstrations_may_be_longer_than_sentences(count: int) -> None:
    one = "Text: " + "word " * (count - 3) + "\nLabel: x"
    lengths = [len(unit.split()) for unit in units(f"{one}\n\n{one}")]
    assert sum(lengths) == 2 * count
    assert max(lengths) <= LONGEST_PAIR
    assert (len(lengths) == 2) == (count <= LONGEST_PAIR)


@pytest.mark.parametrize("text", ["", "   \n\n "])
def test_nothing_to_see(text: str) -> None:
    assert segment_starts(text, np.zeros((0, 2), dtype=np.int64)).tolist() == []


def test_blank_tokens_belong_to_the_unit_before() -> None:
    text = "One.\n\nTwo."
    offsets = np.array([[0, 4], [4, 6], [6, 10]])
    assert segment_starts(text, offsets).tolist() == [0, 2]
