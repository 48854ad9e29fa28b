"""Fact sheets: the only texts that the embedded vision-language model can read, and their pages.

A line of a fact sheet says one thing of the reading world: a word, its colour, and (for an item)
its price and stock, such as `bread red 37 52`, in any order, the price before the stock. Commas,
colons and tabs count as spaces. The pages are those the model was trained on
(`foveate.tasks.reading_page`), plain, 28 facts each, line by line in two columns.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from foveate.carve.pages.layout import Pages
from foveate.errors import InputError
from foveate.tasks.reading_page import (
    BLOCKS,
    COLOURS,
    LINES,
    NOUNS,
    SIZE,
    Cell,
    page_of,
    paint,
)

__all__ = ["PER_PAGE", "FactSheetLayout", "fact_sheet"]

PER_PAGE = LINES * BLOCKS
_FIELD = re.compile(r"[^\s,:;]+")


@dataclass(frozen=True)
class FactSheetLayout:
    """Pages in the embedded model's own style."""

    font: str = "DejaVuSans.ttf"
    font_px: int = 12

    @property
    def size(self) -> tuple[int, int]:
        return SIZE, SIZE

    def takes(self, text: str) -> bool:
        """Whether every line is a fact, and there is one."""
        lines = [line for line in text.splitlines() if line.strip()]
        return bool(lines) and all(_parse(line) is not None for line in lines)

    def lay_out(self, text: str, *, max_pages: int | None = None) -> Pages:
        """Paint the sheet.

        Raises:
            InputError: a line is no fact, or there is none.
        """
        cells: list[Cell] = []
        starts: list[int] = []
        at = 0
        for number, line in enumerate(text.splitlines(keepends=True), start=1):
            if line.strip():
                cell = _parse(line)
                if cell is None:
                    raise InputError(
                        f"line {number} of the fact sheet is no fact; write a word, its colour, "
                        "and for an item its price and stock, such as `bread red 37 52`."
                    )
                cells.append(cell)
                starts.append(at)
            at += len(line)
        if not cells:
            raise InputError("the text is empty, so there is nothing to show; give some text.")
        first = range(0, len(cells), PER_PAGE)[:max_pages]
        stops = [*(starts[i] for i in range(PER_PAGE, len(cells), PER_PAGE)), len(text)]
        begins = [0, *stops[:-1]]
        images = tuple(self._paint(cells[i : i + PER_PAGE]) for i in first)
        return Pages(
            images=images,
            ranges=tuple(zip(begins, stops, strict=True))[: len(images)],
            complete=len(images) * PER_PAGE >= len(cells),
        )

    def to_dict(self) -> dict[str, Any]:
        return {
            "layout": "fact sheet",
            "width": SIZE,
            "height": SIZE,
            "font": self.font,
            "font_px": self.font_px,
            "facts": PER_PAGE,
        }

    def place(self, cells: Sequence[Cell]) -> list[Cell]:
        """The facts of one page, line by line in two columns."""
        return [
            Cell(
                cell.kind,
                place // BLOCKS,
                place % BLOCKS,
                cell.colour,
                word=cell.word,
                price=cell.price,
                stock=cell.stock,
            )
            for place, cell in enumerate(cells)
        ]

    def _paint(self, cells: Sequence[Cell]) -> Image.Image:
        return paint(page_of(self.place(cells), font=self.font, size=self.font_px))


def fact_sheet(cells: Sequence[Cell]) -> str:
    """The text of a sheet with these items and signs; the inverse of reading it."""
    return "".join(
        " ".join([cell.word, cell.colour, *map(str, _numbers(cell))]) + "\n" for cell in cells
    )


def _numbers(cell: Cell) -> tuple[int, ...]:
    return (cell.price, cell.stock) if cell.kind == "item" else ()


def _parse(line: str) -> Cell | None:
    """The fact of a line, nowhere on a page yet; None if it is none."""
    words: list[str] = []
    colours: list[str] = []
    numbers: list[int] = []
    for part in _FIELD.findall(line.casefold()):
        if part in COLOURS:
            colours.append(part)
        elif part in NOUNS:
            words.append(part)
        elif re.fullmatch(r"[1-9][0-9]", part):
            numbers.append(int(part))
        else:
            return None
    if len(words) != 1 or len(colours) > 1 or len(numbers) not in (0, 2):
        return None
    colour = colours[0] if colours else "black"
    if numbers:
        return Cell("item", 0, 0, colour, word=words[0], price=numbers[0], stock=numbers[1])
    return Cell("sign", 0, 0, colour, word=words[0])
