"""Tokens from characters: what is read right is right to the letter, errors stay in place."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from foveate.errors import InputError
from foveate.models.token_offsets import tokenise
from foveate.text_image.render import Renderer
from foveate.text_image.strip_style import StripStyle
from foveate.vist.encoder.characters import (
    TOP,
    Characters,
    check_reads,
    join_characters,
    read_characters,
)
from foveate.vist.encoder.labels import (
    BLANK,
    NUM_CLASSES,
    OTHER,
    UNREADABLE,
    character_classes,
    character_targets,
)
from foveate.vist.encoder.pictures import place_characters
from foveate.vist.encoder.token_reader import TokenReader
from foveate.vist.train.tiny_models import tiny_tokenizer
from tests.vist.encoder.sighted import SightedEncoder

TEXT = "the eye reads\n\tstrips of text;  17 naïve eyes — read \n\n    them again\n" * 12


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny_tokenizer([TEXT])


def characters_of(text: str, **doubts: str) -> Characters:
    """As read without fault, but for `doubts`: at character _N, another one is likelier."""
    classes = np.zeros((len(text), TOP), dtype=np.uint8)
    classes[:, 0] = character_classes(text)
    classes[:, 1:] = (classes[:, :1].astype(int) + np.arange(1, TOP)) % NUM_CLASSES
    log_probs = np.tile(np.log(np.geomspace(0.9, 0.001, TOP)).astype(np.float32), (len(text), 1))
    for place, seen in doubts.items():
        at = int(place[1:])
        classes[at, 1], classes[at, 0] = classes[at, 0], character_classes(seen)[0]
    return Characters(classes=classes, log_probs=log_probs)


def test_without_an_error_tokens_are_the_source_s(tokenizer: Any) -> None:
    ids, offsets = tokenise(tokenizer, TEXT)
    found = TokenReader(tokenizer).read(characters_of(TEXT), offsets)
    assert found.text == TEXT
    assert np.array_equal(found.ids, ids)
    assert not found.unreadable.any()


def test_a_misread_character_costs_its_token_alone(tokenizer: Any) -> None:
    text = "the eye reads strips of text"
    ids, offsets = tokenise(tokenizer, text)
    at = text.index("p")
    found = TokenReader(tokenizer).read(characters_of(text, **{f"_{at}": "q"}), offsets)
    inside = (offsets[:, 0] <= at) & (at < offsets[:, 1])
    assert found.text[at] == "q"
    assert np.array_equal(found.ids[~inside], ids[~inside])


def test_a_word_that_is_no_token_becomes_the_likeliest_one(tokenizer: Any) -> None:
    """`eyc` with a second thought of `e` is `eye`: the borders say that a single token stands."""
    ids, offsets = tokenise(tokenizer, TEXT)
    (place,) = [i for i, (a, b) in enumerate(offsets.tolist()) if TEXT[a:b].strip() == "reads"][:1]
    at = int(offsets[place, 1]) - 2
    found = TokenReader(tokenizer).read(characters_of(TEXT, **{f"_{at}": "č"}), offsets)
    assert found.text[at] == "č"
    assert np.array_equal(found.ids, ids)


def test_what_is_not_of_the_alphabet_is_said(tokenizer: Any) -> None:
    text = "the eye Ж reads"
    ids, offsets = tokenise(tokenizer, text)
    found = TokenReader(tokenizer).read(characters_of(text), offsets)
    touched = (offsets[:, 0] <= 8) & (offsets[:, 1] > 8)
    assert found.text == text.replace("Ж", UNREADABLE)
    assert np.array_equal(found.unreadable, touched)
    replacement = tokenizer(UNREADABLE, add_special_tokens=False)["input_ids"][-1]
    assert set(found.ids[touched].tolist()) == {replacement}
    assert np.array_equal(found.ids[~touched], ids[~touched])


def test_characters_are_read_where_they_were_drawn(tokenizer: Any) -> None:
    encoder = SightedEncoder(TEXT)
    strips = encoder.strips
    mask = torch.from_numpy(strips.patch_mask)
    features = encoder(torch.from_numpy(strips.pixels), mask)
    parts = [read_characters(encoder, features[i : i + 1], strips, i) for i in range(len(strips))]
    whole = read_characters(encoder, features, strips)
    assert len(strips) > 1
    assert join_characters(parts).text == whole.text == TEXT
    # The control: another strip's features say something else.
    assert read_characters(encoder, features.flip(0), strips).text != TEXT


def test_a_mark_without_width_is_unreadable() -> None:
    text = "cafe\u0301 noir"
    strips = Renderer(StripStyle()).render(text)
    encoder = SightedEncoder(text)
    mask = torch.from_numpy(strips.patch_mask)
    found = read_characters(encoder, encoder(torch.from_numpy(strips.pixels), mask), strips)
    assert found.unreadable.tolist() == [char == "\u0301" for char in text]


def test_places_are_read_from_pictures_alone() -> None:
    encoder = SightedEncoder(TEXT)
    strips = encoder.strips
    mask = torch.from_numpy(strips.patch_mask)
    features = encoder(torch.from_numpy(strips.pixels), mask)
    placed, text, unread = place_characters(encoder, [features], strips.pixels, strips.patch_mask)
    assert text == TEXT
    assert not unread.any()
    assert np.array_equal(placed.char_page, strips.char_page)
    assert np.array_equal(placed.char_patch, strips.char_patch)


def test_an_encoder_without_characters_is_refused() -> None:
    class Blind:
        def __call__(self, pixels: Tensor, patch_mask: Tensor) -> Tensor:
            return pixels

    with pytest.raises(InputError, match="Blind gives features and reads no characters"):
        check_reads(Blind())
    assert OTHER != BLANK


def test_targets_are_the_slots_that_are_read() -> None:
    strips = Renderer(StripStyle()).render("ab c")
    targets = character_targets(strips, "ab c")
    assert (targets > 0).sum() == 4
