"""A text's tokens and the characters they stand for."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from foveate.errors import InputError, check_unicode
from foveate.models.special_tokens import special_tokens


class Tokens(NamedTuple):
    """Tokens of a text.

    Attributes:
        ids: int64 [T].
        offsets: int64 [T, 2], first character of each token and the one after its last.
    """

    ids: NDArray[np.int64]
    offsets: NDArray[np.int64]


def tokenise(tokenizer: Any, text: str) -> Tokens:
    """Tokens of a text of any length, all of it plain.

    No special tokens are added, and marks that the text itself holds (`<|im_end|>`) are spelled
    out: a document must not end the user's turn.

    Raises:
        InputError: the tokenizer gives no offsets, the text holds half a character, or a mark that
            the tokenizer cannot spell out.
    """
    check_offsets(tokenizer)
    check_unicode("the text", text)
    found = tokenizer(
        text,
        add_special_tokens=False,
        split_special_tokens=True,
        return_offsets_mapping=True,
        verbose=False,  # a text may well be longer than the model's window
    )
    ids = np.asarray(found["input_ids"], dtype=np.int64)
    _check_plain(tokenizer, ids)
    offsets = np.asarray(found["offset_mapping"], dtype=np.int64).reshape(-1, 2)
    return Tokens(ids=ids, offsets=offsets)


def _check_plain(tokenizer: Any, ids: NDArray[np.int64]) -> None:
    # A vocabulary that has a mark as a word of its own takes it for that however it is asked.
    special = special_tokens(tokenizer)
    special.pop(tokenizer.unk_token_id, None)
    marks = np.intersect1d(ids, np.array(list(special), dtype=np.int64))
    if len(marks):
        raise InputError(
            f"the text holds {special[int(marks[0])]!r}, which this tokenizer can only read as a "
            "mark of its own, not as text; take it out, or write it apart (with spaces in it)."
        )


def check_offsets(tokenizer: Any) -> None:
    """Raise InputError unless a tokenizer says which characters its tokens stand for."""
    if not getattr(tokenizer, "is_fast", False):
        name = getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__
        raise InputError(
            f"the tokenizer of {name} gives no character offsets; use a model with a fast one."
        )


def token_of_char(offsets: NDArray[np.int64], num_chars: int) -> NDArray[np.float64]:
    """Index of the token that each character belongs to, [C].

    A character outside of all tokens (a tokenizer may drop spaces) belongs to the one before.

    Args:
        offsets: int [T, 2], of `tokenise`.
        num_chars: C.
    """
    begins = np.zeros(num_chars + 1, dtype=np.int64)
    np.maximum.at(begins, offsets[:, 0], np.arange(len(offsets)))
    return np.maximum.accumulate(begins)[:-1].astype(np.float64)
