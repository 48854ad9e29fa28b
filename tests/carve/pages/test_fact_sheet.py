"""Fact sheets: what is one, and that its pages are those the embedded model knows."""

from __future__ import annotations

import numpy as np
import pytest

from foveate.carve.pages.fact_sheet import PER_PAGE, FactSheetLayout, fact_sheet
from foveate.errors import InputError
from foveate.tasks.reading import page_at
from foveate.tasks.reading_page import GROUNDS, page_of, paint, visible_colours


@pytest.mark.parametrize(
    ("text", "is_sheet"),
    [
        ("bread red 37 52", True),
        ("Bread, RED: 37; 52\n\n tea\t14 15 \n", True),
        ("red bread", True),
        ("bread", True),
        ("", False),
        ("\n", False),
        ("bread red 37", False),
        ("bread tea 37 52", False),
        ("bread red blue 37 52", False),
        ("bread red 5 52", False),
        ("bread red 137 52", False),
        ("Once upon a time", False),
    ],
)
def test_what_is_a_fact_sheet(text: str, is_sheet: bool) -> None:
    layout = FactSheetLayout()
    assert layout.takes(text) is is_sheet
    if is_sheet:
        assert layout.lay_out(text).ranges == ((0, len(text)),)
    else:
        with pytest.raises(InputError):
            layout.lay_out(text)


def test_text_of_facts_and_back() -> None:
    cells = [cell for cell in page_at(2, 1).cells if cell.word]
    text = fact_sheet(cells)
    assert len(text.splitlines()) == len(cells)
    (image,) = FactSheetLayout().lay_out(text).images
    # The same facts, placed line by line in two columns.
    placed = FactSheetLayout().place(cells)
    assert [(c.word, c.colour, c.price, c.stock) for c in placed] == [
        (c.word, c.colour, c.price, c.stock) for c in cells
    ]
    assert [(c.line, c.block) for c in placed[:3]] == [(0, 0), (0, 1), (1, 0)]
    assert (np.asarray(image) == np.asarray(paint(page_of(placed)))).all()


def test_pages_and_ranges() -> None:
    text = "bread red 37 52\n" * (2 * PER_PAGE + 1)
    layout = FactSheetLayout()
    pages = layout.lay_out(text)
    per_page = 16 * PER_PAGE
    assert pages.ranges == ((0, per_page), (per_page, 2 * per_page), (2 * per_page, len(text)))
    assert pages.complete
    assert {image.size for image in pages.images} == {layout.size}
    some = layout.lay_out(text, max_pages=2)
    assert (len(some), some.complete, some.ranges) == (2, False, pages.ranges[:2])


def test_page_is_dark_where_that_shows_more() -> None:
    light, dark = map(visible_colours, GROUNDS)
    assert "yellow" in dark
    assert "yellow" not in light
    for colour, ground in (("black", GROUNDS[0]), ("yellow", GROUNDS[1])):
        (image,) = FactSheetLayout().lay_out(f"bread {colour} 37 52").images
        assert image.getpixel((0, 223)) == ground


def test_bad_line_is_named() -> None:
    with pytest.raises(InputError, match="line 2 of the fact sheet is no fact; write a word"):
        FactSheetLayout().lay_out("bread red 37 52\nnonsense\n")
