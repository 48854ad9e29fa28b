"""Tokens and their characters: everything that reads a text by its tokens starts here."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import transformers as tf

from foveate.errors import InputError
from foveate.models.token_offsets import token_of_char, tokenise
from tests.vist import tiny_vist


def test_ids_and_characters_of_a_text() -> None:
    ids, offsets = tokenise(tiny_vist.tokenizer(), "w5 w7  w9")
    assert (ids.dtype, offsets.dtype) == (np.int64, np.int64)
    assert len(ids) == 3
    assert offsets.tolist() == [[0, 2], [2, 5], [5, 9]]


def test_an_empty_text_has_no_tokens() -> None:
    ids, offsets = tokenise(tiny_vist.tokenizer(), "")
    assert (ids.shape, offsets.shape) == ((0,), (0, 2))


def test_special_tokens_stay_out_and_long_texts_are_no_news(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tokenizer = tiny_vist.tokenizer()
    tokenizer.model_max_length = 2
    with caplog.at_level(logging.WARNING):
        assert len(tokenise(tokenizer, "w5 w6 w7 w8").ids) == 4
    assert not caplog.records


def test_a_slow_tokenizer_is_refused() -> None:
    class Slow(tf.PythonBackend):
        vocab_size = 1

        def get_vocab(self) -> dict[str, int]:
            return {"a": 0}

    with pytest.raises(InputError, match="no character offsets; use a model with a fast one"):
        tokenise(Slow(), "a")


def test_every_character_has_a_token() -> None:
    # The spaces at 2, 3 and 6 belong to no token.
    offsets = np.array([[0, 2], [4, 6], [7, 8]])
    assert token_of_char(offsets, 8).tolist() == [0, 0, 0, 0, 1, 1, 1, 2]
