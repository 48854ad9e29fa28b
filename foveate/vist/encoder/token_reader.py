"""Tokens of rendered text as the encoder reads them: characters first, then the tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from foveate.models.token_offsets import check_offsets, tokenise
from foveate.models.token_spellings import spellings
from foveate.vist.encoder.characters import Characters
from foveate.vist.encoder.labels import NUM_CLASSES, OTHER, UNREADABLE, character_classes

__all__ = ["ReadTokens", "TokenReader"]

FLOOR = -25.0  # log probability of a character that is not among the candidates kept
ROWS_AT_A_TIME = 64


@dataclass(frozen=True, eq=False, kw_only=True)
class ReadTokens:
    """T tokens as read.

    Attributes:
        text: its characters as read.
        ids: int64 [T].
        unreadable: bool [T], tokens with a character that the encoder does not know; their id is
            that of the replacement character.
    """

    text: str
    ids: npt.NDArray[np.int64]
    unreadable: npt.NDArray[np.bool_]


class TokenReader:
    """Names the tokens that stand at known places of a rendered text.

    The characters are read one by one and tokenised again; a token whose borders come out the same
    is the one that was read. Where a misread character moved the borders, the token is the
    vocabulary's likeliest of that many characters. So what is read right is right to the letter,
    and one misread character costs one token.

    Args:
        tokenizer: of the language model, a fast one.

    Raises:
        InputError: the tokenizer gives no offsets.
    """

    def __init__(self, tokenizer: Any) -> None:
        check_offsets(tokenizer)
        self.tokenizer = tokenizer
        replacement = tokenizer(UNREADABLE, add_special_tokens=False)["input_ids"]
        self._replacement = int(replacement[-1]) if replacement else 0
        self._spelled: dict[int, tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]] | None = None

    def read(self, characters: Characters, offsets: npt.NDArray[np.int64]) -> ReadTokens:
        """Tokens at known borders.

        Args:
            characters: C of them, as read.
            offsets: int64 [T, 2], first character of each token and the one after its last.
        """
        text = characters.text
        ids = self._with_same_borders(text, offsets)
        unknown = np.concatenate([[0], np.cumsum(characters.unreadable)])
        unreadable = unknown[offsets[:, 1]] > unknown[offsets[:, 0]]
        ids[unreadable] = self._replacement
        self._spell(ids, characters, offsets)
        return ReadTokens(text=text, ids=ids, unreadable=unreadable)

    def _with_same_borders(
        self, text: str, offsets: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int64]:
        """Ids of the tokens [T] that tokenising the text again gives with the same borders, or -1.

        Tokens that share their borders (the bytes of one character) are told apart by their order.
        """
        found = tokenise(self.tokenizer, text)
        if np.array_equal(found.offsets, offsets):
            return found.ids
        there = dict(zip(_places(found.offsets), found.ids.tolist(), strict=True))
        return np.array([there.get(place, -1) for place in _places(offsets)], dtype=np.int64)

    def _spell(
        self, ids: npt.NDArray[np.int64], characters: Characters, offsets: npt.NDArray[np.int64]
    ) -> None:
        """Fill in ids of -1: the likeliest spelling of as many characters."""
        lacking = np.flatnonzero(ids < 0)
        if not len(lacking):
            return
        ids[lacking] = self._replacement
        lengths = offsets[lacking, 1] - offsets[lacking, 0]
        for length in np.unique(lengths).tolist():
            known, spelled = self._spellings().get(length, (np.zeros(0, np.int64), None))
            if spelled is None:
                continue
            own = lacking[lengths == length]
            for first in range(0, len(own), ROWS_AT_A_TIME):
                rows = own[first : first + ROWS_AT_A_TIME]
                places = offsets[rows, :1] + np.arange(length)  # [R, n]
                table = np.full((*places.shape, NUM_CLASSES), FLOOR, dtype=np.float32)
                np.put_along_axis(
                    table, characters.classes[places].astype(np.int64),
                    np.maximum(characters.log_probs[places], FLOOR), axis=2,
                )  # fmt: skip
                score = np.zeros((len(rows), len(known)), dtype=np.float32)
                for at in range(length):
                    score += table[:, at, spelled[:, at]]
                ids[rows] = known[score.argmax(axis=1)]

    def _spellings(self) -> dict[int, tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]]:
        """Length -> ids [V_n] and classes [V_n, n] of the tokens the encoder could read."""
        if self._spelled is None:
            texts = spellings(self.tokenizer, len(self.tokenizer))
            lengths: dict[int, list[int]] = {}
            for token, text in enumerate(texts):
                if text:
                    lengths.setdefault(len(text), []).append(token)
            self._spelled = {}
            for length, tokens in lengths.items():
                joined = "".join(texts[token] or "" for token in tokens)
                classes = character_classes(joined).reshape(-1, length)
                readable = (classes != OTHER).all(axis=1)
                if readable.any():
                    known = np.array(tokens, dtype=np.int64)[readable]
                    self._spelled[length] = known, classes[readable]
        return self._spelled


def _places(offsets: npt.NDArray[np.int64]) -> list[tuple[int, int, int]]:
    """Borders of each token and how many tokens before it have the same."""
    same = np.r_[False, (offsets[1:] == offsets[:-1]).all(axis=1)] if len(offsets) else []
    turn, places = 0, []
    for (begin, end), again in zip(offsets.tolist(), same, strict=True):
        turn = turn + 1 if again else 0
        places.append((begin, end, turn))
    return places
