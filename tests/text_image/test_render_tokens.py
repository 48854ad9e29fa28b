"""A tokenizer's offsets index the renderer's maps: text, tokens, characters and patches agree."""

from __future__ import annotations

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from foveate.text_image.render import Renderer, Strips, StripStyle

TEXT = (
    "Chapter 1.\n\tIt was the best of times,\n\nit was the worst of times; naïve cafe\u0301s "
    "charged €4.50 — “extortion”, wrote Jeff.\r\n\r\nДень и ночь 漢字 🙂 x\u200by.\n"
) * 30


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """Byte-level BPE, as Llama, SmolLM and Qwen have."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    return tokenizer


@pytest.fixture(scope="module", params=["strips", "pages"])
def strips(request: pytest.FixtureRequest) -> Strips:
    page = StripStyle(height=224, width=224, line_height=14, wrap=1.0, newline="break")
    return Renderer(page if request.param == "pages" else StripStyle()).render(TEXT)


def test_the_tokens_cover_the_characters_that_were_drawn(
    tokenizer: Tokenizer, strips: Strips
) -> None:
    offsets = tokenizer.encode(TEXT).offsets
    covered = {char for start, stop in offsets for char in range(start, stop)}
    assert covered == set(range(len(strips.char_page)))


def test_every_token_has_patches_in_reading_order(tokenizer: Tokenizer, strips: Strips) -> None:
    before = (0, 0, 0)
    for start, stop in tokenizer.encode(TEXT).offsets:
        places = strips.patches_of(start, stop)
        assert places
        assert all(strips.patch_mask[page, first : last + 1].all() for page, first, last in places)
        assert places[0][:2] >= before[:2]
        before = places[0]


def test_each_tokens_pixels_are_its_own_text(tokenizer: Tokenizer) -> None:
    """The trap: one glyph too many or too few shifts every token after it."""
    renderer = Renderer()
    # Without the accent that reaches into the token before it.
    text = TEXT.replace("e\u0301", "\u00e9")
    strips = renderer.render(text)
    compared = 0
    for start, stop in tokenizer.encode(text).offsets:
        page = int(strips.char_page[start])
        left, right = int(strips.char_left[start]), int(strips.char_right[stop - 1])
        # Neighbours may reach a pixel or two into the token's own columns.
        inside = slice(2, right - left - 2)
        if strips.char_page[stop - 1] != page or inside.stop <= inside.start:
            continue
        alone = renderer.render(text[start:stop]).pixels[0][:, : right - left]
        np.testing.assert_array_equal(
            strips.pixels[page][:, left:right][:, inside], alone[:, inside], str((start, stop))
        )
        compared += 1
    assert compared > 500


def test_long_texts_stay_aligned_to_the_end(tokenizer: Tokenizer) -> None:
    strips = Renderer().render(TEXT)
    start, stop = tokenizer.encode(TEXT).offsets[-1]
    page, first, last = strips.patches_of(start, stop)[-1]
    assert (page, last) == (len(strips) - 1, int(np.flatnonzero(strips.patch_mask[-1])[-1]))
    assert strips.chars_of(page, last)[1] == stop == len(TEXT)
    assert first <= last
