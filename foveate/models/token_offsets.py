"""A text's tokens and the characters they stand for."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from foveate.errors import InputError, check_unicode


class Tokens(NamedTuple):
    """Tokens of a text.

    Attributes:
        ids: int64 [T].
        offsets: int64 [T, 2], first character of each token and the one after its last.
    """

    ids: NDArray[np.int64]
    offsets: NDArray[np.int64]


def tokenise(tokenizer: Any, text: str) -> Tokens:
    """Tokens of a text of any length; no special tokens are added.

    Raises:
        InputError: the tokenizer gives no offsets, or the text holds half a character.
    """
    check_offsets(tokenizer)
    check_unicode("the text", text)
    # verbose=False: a text may well be longer than the model's window.
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return Tokens(
        ids=np.asarray(found["input_ids"], dtype=np.int64),
        offsets=np.asarray(found["offset_mapping"], dtype=np.int64).reshape(-1, 2),
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
