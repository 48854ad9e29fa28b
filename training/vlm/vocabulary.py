"""Word-level vocabulary of the embedded model: at most 512 entries, numbers digit by digit."""

from __future__ import annotations

import re

from foveate.tasks.reading_page import COLOURS, NOUNS, SHAPES

__all__ = [
    "ANSWER",
    "BEGIN",
    "DIGITS",
    "END",
    "IMAGE",
    "PAD",
    "UNKNOWN",
    "VOCABULARY",
    "decode",
    "encode",
]

PAD, END, UNKNOWN, IMAGE = "<pad>", "</s>", "<unk>", "<image>"
BEGIN, ANSWER = "USER:", "ASSISTANT:"
DIGITS = tuple("0123456789")
_FUNCTION = """
what is the price of stock costs on page there a under above beside item that color word
shape no not present in image does contain yes ? how many are left right between and or
which it has with first last line top bottom number count below over to from item's sign
more less than cheapest dearest at
"""

VOCABULARY: tuple[str, ...] = tuple(
    dict.fromkeys(
        [
            PAD,
            END,
            UNKNOWN,
            IMAGE,
            BEGIN,
            ANSWER,
            *DIGITS,
            *COLOURS,
            *SHAPES,
            *_FUNCTION.split(),
            *NOUNS,
        ]
    )
)
_INDEX = {word: idx for idx, word in enumerate(VOCABULARY)}
_PIECE = re.compile(r"[0-9]|[a-z']+|\?")


def encode(text: str) -> list[int]:
    """Token ids of plain text, e.g. ``what costs 37?`` -> what, costs, 3, 7, ?."""
    return [_INDEX.get(piece, _INDEX[UNKNOWN]) for piece in _PIECE.findall(text.lower())]


def decode(ids: list[int]) -> str:
    """Text of token ids up to END; digits are joined to numbers, words by one space."""
    text = ""
    for idx in ids:
        word = VOCABULARY[idx]
        if word == END:
            break
        joined = word in DIGITS and text[-1:].isdigit()
        text += word if joined or not text else f" {word}"
    return text
