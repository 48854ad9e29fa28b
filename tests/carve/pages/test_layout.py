"""Pages: geometry, ranges without gaps, line breaks, and what is cut off."""

from __future__ import annotations

import numpy as np
import pytest

from foveate.carve.pages.layout import FONT_PX, TextLayout, font_for, line_height
from foveate.errors import InputError

WORDS = "the cost of seven pears is 12 and of 0xdead beef it is 4711 "


def ink(image: object) -> np.ndarray:
    return np.asarray(image)[..., 0] < 255


@pytest.mark.parametrize("size", [(224, 224), (336, 336), (448, 224), (56, 70), (896, 896)])
def test_pages_cover_the_text_without_gaps(size: tuple[int, int]) -> None:
    layout = TextLayout(width=size[0], height=size[1])
    text = WORDS * 60
    pages = layout.lay_out(text)
    assert pages.complete
    assert {image.size for image in pages.images} == {size}
    assert {image.mode for image in pages.images} == {"RGB"}
    stops = [0, *(stop for _, stop in pages.ranges)]
    assert [start for start, _ in pages.ranges] == stops[:-1]
    assert stops[-1] == len(text)
    assert all(ink(image).any() for image in pages.images)


def test_line_ends_begin_new_lines() -> None:
    layout = TextLayout(width=224, height=224)
    line = layout.style.line
    (image,) = layout.lay_out("one\n\nthree").images
    rows = ink(image).any(1)
    used = [rows[i * line : (i + 1) * line].any() for i in range(layout.style.lines)]
    assert used == [True, False, True, *[False] * (layout.style.lines - 3)]


def test_flowing_text_needs_less_paper() -> None:
    text = "short line\n" * 40
    broken = TextLayout(width=448, height=224).lay_out(text)
    flowing = TextLayout(width=448, height=224, flow=True).lay_out(text)
    assert (len(broken), len(flowing)) == (3, 1)
    assert flowing.ranges == ((0, len(text)),)


def test_words_are_not_broken_where_a_space_is_near() -> None:
    """The same words, one a line, leave the same ink: no word was cut in two."""
    layout = TextLayout(width=112, height=1400)
    words = [f"word{i}" for i in range(30)]
    (flowing,), (listed,) = (layout.lay_out(t).images for t in (" ".join(words), "\n".join(words)))
    assert ink(flowing).sum() == ink(listed).sum()


def test_max_pages_stops_the_drawing() -> None:
    layout = TextLayout(width=56, height=56)
    whole = layout.lay_out(WORDS * 5)
    some = layout.lay_out(WORDS * 5, max_pages=2)
    assert (whole.complete, some.complete, len(some)) == (True, False, 2)
    assert some.ranges == whole.ranges[:2]
    assert layout.lay_out(WORDS * 5, max_pages=len(whole)).complete
    # A long text is not drawn to its end.
    assert len(layout.lay_out(WORDS * 100_000, max_pages=1)) == 1


@pytest.mark.parametrize(("lines", "height"), [(1, 28), (2, 28), (3, 56), (8, 112), (9, 140)])
def test_last_page_ends_below_its_text(lines: int, height: int) -> None:
    layout = TextLayout(width=224, height=140, crop_px=28)
    assert layout.style.line == 14
    (page,) = layout.lay_out("\n".join(["text"] * lines)).images
    assert page.size == (224, height)
    whole = TextLayout(width=224, height=140).lay_out("\n".join(["text"] * lines))
    assert ink(whole.images[0]).sum() == ink(page).sum()
    least = TextLayout(width=224, height=140, crop_px=28, least_px=60).lay_out("text")
    assert least.images[0].size == (224, 84)


def test_only_the_last_page_is_cropped() -> None:
    pages = TextLayout(width=224, height=56, crop_px=14).lay_out("\n".join("abcdef"))
    assert [image.height for image in pages.images] == [56, 28]


@pytest.mark.parametrize(
    ("cell", "width", "font"),
    [(14, 336, 10), (28, 448, 10), (56, 896, 20), (62, 2048, 22), (4, 24, 6), (400, 9999, 64)],
)
def test_font_follows_the_visual_tokens(cell: float, width: int, font: int) -> None:
    assert font_for(cell, width) == font
    assert TextLayout(width=width, height=99, cell_px=cell).style.font_px == font


def test_line_height_is_the_renderers() -> None:
    assert line_height(FONT_PX) == 14


def test_missing_characters_are_counted() -> None:
    pages = TextLayout(width=224, height=224).lay_out("fine \U000f0000\U000f0000")
    assert dict(pages.missing) == {"\U000f0000": 2}


def test_drawing_is_repeatable() -> None:
    first, second = (TextLayout(width=224, height=224).lay_out(WORDS * 9) for _ in range(2))
    assert all(
        (np.asarray(a) == np.asarray(b)).all()
        for a, b in zip(first.images, second.images, strict=True)
    )


@pytest.mark.parametrize("text", ["", " \n\t"])
def test_empty_text(text: str) -> None:
    with pytest.raises(InputError, match="the text is empty, so there is nothing to show"):
        TextLayout(width=224, height=224).lay_out(text)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 224, "height": 10}, "a 10 px font needs lines of 14 px and the page has 10"),
        ({"width": 224, "height": 224, "font_px": 0}, "font_px=0 is below 1"),
        ({"width": 224, "height": 224, "font_px": 99}, "font_px=99 is outside 6 to 64"),
        ({"width": 30, "height": 99, "font_px": 10}, "width=30 is below 4 x font_px=10"),
        ({"width": 224, "height": 224, "crop_px": 0}, "crop_px=0 is below 1"),
    ],
)
def test_bad_settings(settings: dict[str, int], message: str) -> None:
    with pytest.raises(InputError) as raised:
        TextLayout(**settings)
    assert message in str(raised.value)
