"""The maps are exact for any Unicode text, and a stream equals the whole."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foveate.errors import InputError
from foveate.text_image import render
from foveate.text_image.render import Renderer, Strips, StripStyle

STYLES = {
    "strips": StripStyle(),
    "short strips": StripStyle(width=112),
    "pages": StripStyle(height=56, width=112, line_height=14, wrap=1.0, newline="break"),
    "lines across patches": StripStyle(height=64, width=128, patch=8, line_height=20, wrap=0.5),
}
RENDERERS = {name: Renderer(style) for name, style in STYLES.items()}

# Any text, and texts of what is special: marks without width, overhanging glyphs, line ends.
TEXTS = st.one_of(
    st.text(max_size=300),
    st.text(st.sampled_from("ab jf\r\n\t\u0301\u0323\u200b\ufe0fÏ_\u6f22\ud800"), max_size=400),
)
CHECK = settings(max_examples=120, deadline=None)


def check_maps(text: str, strips: Strips) -> None:
    style = strips.style
    for chars in (strips.char_page, strips.char_left, strips.char_right, strips.char_top):
        assert len(chars) == len(text)
        assert chars.dtype == np.int32
    line = strips.char_page * style.height + strips.char_top
    assert (np.diff(strips.char_page) >= 0).all()
    assert (np.diff(line) >= 0).all()
    same = np.diff(line) == 0
    assert (np.diff(strips.char_left)[same] >= 0).all()
    centre = (strips.char_left + strips.char_right) // 2
    assert (np.diff(centre)[same] >= 0).all()
    assert (strips.char_left >= 0).all()
    assert (strips.char_left <= strips.char_right).all()
    assert (strips.char_right <= style.width).all()
    parts = [text[slice(*strips.char_range(page))] for page in range(len(strips))]
    assert "".join(parts) == text
    assert all(parts)


@CHECK
@given(TEXTS, st.sampled_from(sorted(STYLES)))
def test_characters_have_their_places(text: str, name: str) -> None:
    check_maps(text, RENDERERS[name].render(text))


@CHECK
@given(TEXTS, st.sampled_from(sorted(STYLES)))
def test_patches_of_and_chars_of_are_inverse(text: str, name: str) -> None:
    strips = RENDERERS[name].render(text)
    for page in range(len(strips)):
        named: list[int] = []
        for patch in np.flatnonzero(strips.patch_mask[page]):
            start, stop = strips.chars_of(page, int(patch))
            named += range(start, stop)
            for char in range(start, stop):
                assert any(
                    p == page and first <= patch <= last
                    for p, first, last in strips.patches_of(char, char + 1)
                )
        assert named == list(range(*strips.char_range(page)))


@CHECK
@given(TEXTS, st.sampled_from(sorted(STYLES)), st.data())
def test_patches_of_a_range_are_those_of_its_characters(
    text: str, name: str, data: st.DataObject
) -> None:
    strips = RENDERERS[name].render(text)
    start = data.draw(st.integers(0, len(text)))
    stop = data.draw(st.integers(start, len(text)))

    def named(first_char: int, end_char: int) -> set[tuple[int, int]]:
        return {
            (page, patch)
            for page, first, last in strips.patches_of(first_char, end_char)
            for patch in range(first, last + 1)
        }

    whole = named(start, stop)
    assert whole == set().union(*(named(char, char + 1) for char in range(start, stop)))
    assert all(strips.patch_mask[place] for place in whole)


@CHECK
@given(TEXTS)
def test_ink_is_in_unmasked_patches(text: str) -> None:
    """But for the last glyph's overhang, which may reach a few pixels into the next patch."""
    strips = RENDERERS["strips"].render(text)
    masked = np.repeat(~strips.patch_mask, 14, axis=1)
    inked = (strips.pixels < 255).any(axis=1)
    assert (inked & masked).sum(axis=1).max(initial=0) <= 10


@CHECK
@given(TEXTS, st.sampled_from(sorted(STYLES)), st.integers(1, 60), st.integers(1, 9))
def test_a_stream_equals_the_whole(text: str, name: str, block: int, piece: int) -> None:
    whole = RENDERERS[name].render(text)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(render, "STREAM_CHARS", block)
        chunks = [text[at : at + piece] for at in range(0, len(text), piece)]
        parts = list(RENDERERS[name].stream(chunks))
    assert sum(map(len, parts)) == len(whole)
    if not parts:
        return
    for field in ("pixels", "patch_mask", "char_left", "char_right", "char_top"):
        np.testing.assert_array_equal(
            np.concatenate([getattr(part, field) for part in parts]), getattr(whole, field)
        )
    pages = np.concatenate([part.char_page + part.first_page for part in parts])
    np.testing.assert_array_equal(pages, whole.char_page)
    lengths = np.cumsum([0] + [len(part.char_page) for part in parts])
    assert [part.first_char for part in parts] == lengths[:-1].tolist()
    assert sum((part.missing for part in parts), type(whole.missing)()) == whole.missing


@pytest.mark.parametrize(
    ("piece", "name", "num_chunks"),
    [
        ("ordinary words, one after another; ", "strips", 40),
        ("\u0301\u0302", "short strips", 6),
        (" ", "pages", 10),
    ],
    ids=["words", "nothing but accents", "nothing but spaces"],
)
def test_a_stream_needs_little_memory_however_long_the_text(
    piece: str, name: str, num_chunks: int
) -> None:
    chunk = piece * (30_000 // len(piece))
    renderer = RENDERERS[name]
    renderer.render(piece)
    tracemalloc.start()
    num_chars = 0
    for strips in renderer.stream(chunk for _ in range(num_chunks)):
        num_chars += len(strips.char_page)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert num_chars == num_chunks * len(chunk)
    # The words' 1.2 million characters are 80 MB of pixels and 19 MB of maps.
    assert peak < 20e6


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: s.char_range(1), "picture 1 does not exist; the text has 1, counted from 0."),
        (lambda s: s.chars_of(0, 256), "patch 256 does not exist; a picture has patches 0 to 255."),
        (lambda s: s.chars_of(-1, 0), "picture -1 does not exist"),
        (lambda s: s.patches_of(1, 9), "characters 1 to 9 are not within the text's 4; give 0"),
        (lambda s: s.patches_of(3, 2), "characters 3 to 2 are not within the text's 4"),
    ],
)
def test_places_that_do_not_exist(call, message: str) -> None:
    with pytest.raises(InputError) as raised:
        call(RENDERERS["strips"].render("four"))
    assert message in str(raised.value)
