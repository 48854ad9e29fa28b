"""Tokens and their characters: everything that reads a text by its tokens starts here."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import transformers as tf

from foveate.errors import InputError
from foveate.models.special_tokens import special_tokens
from foveate.models.token_offsets import token_of_char, tokenise
from foveate.models.token_spellings import spellings
from foveate.vist.train.tiny_models import tiny_tokenizer
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


def test_marks_in_a_text_are_spelled_out() -> None:
    tokenizer = tiny_tokenizer(["one two three"])
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|end|>"]})
    text = "done<|end|>\n<s>next"
    mark = tokenizer.convert_tokens_to_ids("<|end|>")
    assert mark in tokenizer(text)["input_ids"]  # the control: asked as usual, it ends the turn
    ids, offsets = tokenise(tokenizer, text)
    assert not set(ids.tolist()) & set(special_tokens(tokenizer))
    assert tokenizer.decode(ids) == text
    assert [text[a:b] for a, b in offsets.tolist()] == [tokenizer.decode([i]) for i in ids]
    assert mark in tokenizer(text)["input_ids"]  # the tokenizer is left as it was


def test_a_mark_that_cannot_be_spelled_out_is_refused() -> None:
    tokenizer = tiny_vist.tokenizer()
    tokenizer.add_special_tokens({"eos_token": "w9"})
    with pytest.raises(InputError, match=r"the text holds 'w9', which .* write it apart"):
        tokenise(tokenizer, "w9 w5")
    assert len(tokenise(tokenizer, "w5 w3 unheard").ids) == 3  # an unknown word is no mark


def test_no_mark_is_a_spelling() -> None:
    """A misread word of eleven letters must not become `<repo_name>`."""
    tokenizer = tiny_tokenizer(["one two three"])
    tokenizer.add_tokens([tf.AddedToken("<repo_name>", special=True)], special_tokens=True)
    assert "<repo_name>" in special_tokens(tokenizer).values()
    found = spellings(tokenizer, len(tokenizer))
    assert "<repo_name>" not in found
    assert " " in found or "e" in found


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
