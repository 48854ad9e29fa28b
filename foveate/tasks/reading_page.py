"""Pages of the reading world: what is on a page, where its ink sits, and how it is painted.

A page is 224 x 224 px. Text lines lie on a 16 px pitch (14 lines), in two blocks of 112 px.
A cell (line, block) holds an item (word, price, stock), a sign (a word alone) or a shape.
Words, prices and stocks are unique on a page, so every question has exactly one answer.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

__all__ = [
    "BLOCKS",
    "COLOURS",
    "GROUNDS",
    "LINES",
    "NOUNS",
    "PITCH",
    "SHAPES",
    "SIZE",
    "Cell",
    "Ink",
    "Page",
    "make_page",
    "page_of",
    "paint",
    "visible_colours",
]

SIZE = 224
PITCH = 16
LINES = SIZE // PITCH
BLOCKS = 2
_NOUNS = """
apple bread milk tea rice salt soup meat fish egg cake corn bean beet kale lime
lemon mango melon peach grape onion olive honey sugar flour cream pasta pizza salad juice
cider wine beer water oil cocoa mint sage basil thyme leek okra date nuts oats yam ham pie
jam bun roll tart toast bacon cod crab clam tuna pork beef lamb duck rye
"""
NOUNS = tuple(_NOUNS.split())
SHAPES = ("circle", "rectangle", "triangle")
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (255, 0, 0),
    "blue": (0, 0, 255),
    "green": (0, 255, 0),
    "yellow": (255, 255, 0),
    "gray": (128, 128, 128),
    "black": (0, 0, 0),
    "brown": (165, 42, 42),
    "teal": (0, 128, 128),
}
FONTS = (
    "DejaVuSans.ttf",
    "DejaVuSans-Bold.ttf",
    "DejaVuSerif.ttf",
    "DejaVuSerif-Bold.ttf",
    "DejaVuSansMono.ttf",
    "DejaVuSansMono-Bold.ttf",
)
FONT_SIZES = (10, 11, 12, 13)
GROUNDS = ((240, 240, 240), (30, 30, 30))
VISIBLE = 70  # least contrast of a colour on the ground


@dataclass(frozen=True)
class Cell:
    """One cell: ``kind`` is ``item`` (word, price, stock), ``sign`` (word) or ``shape``."""

    kind: str
    line: int
    block: int
    colour: str
    word: str = ""
    price: int = 0
    stock: int = 0
    shape: str = ""


@dataclass(frozen=True)
class Ink:
    """One painted thing: box (x0, y0, x1, y1) in px, ``what`` in word/price/stock/shape."""

    box: tuple[int, int, int, int]
    what: str
    cell: Cell


@dataclass(frozen=True)
class Page:
    """Facts and geometry of one page; ``paint(page)`` gives the picture."""

    cells: tuple[Cell, ...]
    ink: tuple[Ink, ...]
    font: str
    size: int
    ground: tuple[int, int, int]
    number_ink: tuple[int, int, int]
    texture: str
    noise_seed: int
    first_line: int = 0
    num_lines: int = LINES


def make_page(
    rng: random.Random,
    *,
    num_lines: int = LINES,
    fonts: tuple[str, ...] = FONTS,
    max_items: int | None = None,
) -> Page:
    """Draw a page's facts and layout from ``rng``.

    Args:
        rng: the only source of randomness.
        num_lines: lines in use, 1..14, from a random first line on (14 = the real world;
            fewer is a training curriculum).
        fonts: file names of the fonts to choose from.
        max_items: at most this many cells with ink (None = no limit).
    """
    if not 1 <= num_lines <= LINES:
        raise ValueError(f"num_lines={num_lines} is outside 1..{LINES}; choose a value inside")
    font, size = rng.choice(fonts), rng.choice(FONT_SIZES)
    dark = rng.random() < 0.35
    ground = _ground(rng, dark)
    palette = visible_colours(ground)
    number_ink = _jitter(rng, (235, 235, 235) if dark else (20, 20, 20), 20)
    first = rng.randint(0, LINES - num_lines)
    style = rng.random()
    places = [(line, block) for line in range(first, first + num_lines) for block in range(BLOCKS)]
    density = rng.uniform(0.75, 1.0) if style < 0.85 else rng.uniform(0.1, 0.5)
    places = [place for place in places if rng.random() < density] or [rng.choice(places)]
    if max_items is not None and len(places) > max_items:
        places = sorted(rng.sample(places, max_items))
    signs_only = rng.randrange(BLOCKS) if rng.random() < 0.12 else -1
    words = iter(rng.sample(NOUNS, len(places)))
    prices = iter(rng.sample(range(10, 100), len(places)))
    stocks = iter(rng.sample(range(10, 100), len(places)))
    cells = []
    for line, block in places:
        draw = rng.random() * (0.2 if block == signs_only else 1.0)
        colour = rng.choice(palette)
        if draw < 0.07:
            cells.append(Cell("shape", line, block, colour, shape=rng.choice(SHAPES)))
        elif draw < 0.2:
            cells.append(Cell("sign", line, block, colour, word=next(words)))
        else:
            cells.append(
                Cell(
                    "item",
                    line,
                    block,
                    colour,
                    word=next(words),
                    price=next(prices),
                    stock=next(stocks),
                )
            )
    return Page(
        cells=tuple(cells),
        ink=tuple(_lay_out(rng, cells, font, size)),
        font=font,
        size=size,
        ground=ground,
        number_ink=number_ink,
        texture=rng.choice(("plain", "noise", "noise", "gradient", "blobs", "stripes")),
        noise_seed=rng.getrandbits(32),
        first_line=first,
        num_lines=num_lines,
    )


def page_of(cells: Sequence[Cell], *, font: str = FONTS[0], size: int = 12) -> Page:
    """A plain page of the given cells: light, or dark where that shows more of their colours.

    Args:
        cells: what to show, each in its place.
        font: one of FONTS.
        size: one of FONT_SIZES, px.
    """
    shown = [
        sum(cell.colour in visible for cell in cells) for visible in map(visible_colours, GROUNDS)
    ]
    ground = GROUNDS[shown.index(max(shown))]
    return Page(
        cells=tuple(cells),
        ink=tuple(_lay_out(random.Random(0), list(cells), font, size)),
        font=font,
        size=size,
        ground=ground,
        number_ink=(20, 20, 20) if ground == GROUNDS[0] else (235, 235, 235),
        texture="plain",
        noise_seed=0,
    )


def visible_colours(ground: tuple[int, int, int]) -> list[str]:
    """Names of the colours that stand out on a ground (red, green, blue)."""
    return [name for name, rgb in COLOURS.items() if _contrast(rgb, ground) > VISIBLE]


def paint(page: Page) -> Image.Image:
    """Paint a page: RGB, 224 x 224, the same pixels for the same page on every machine."""
    image = Image.fromarray(_background(page))
    draw = ImageDraw.Draw(image)
    noise = random.Random(page.noise_seed)
    for ink in page.ink:
        rgb = _jitter(noise, COLOURS[ink.cell.colour], 14)
        if ink.what == "shape":
            _draw_shape(draw, ink.cell.shape, ink.box, rgb)
            continue
        text = ink.cell.word if ink.what == "word" else str(getattr(ink.cell, ink.what))
        sprite = _sprite(page.font, page.size, text)
        image.paste(rgb if ink.what == "word" else page.number_ink, ink.box[:2], sprite)
    return image


def _lay_out(rng: random.Random, cells: list[Cell], font: str, size: int) -> list[Ink]:
    shift_y = rng.randint(-2, 2)
    shift_x = [rng.randint(0, 7) for _ in range(BLOCKS)]
    ink = []
    for cell in cells:
        left, top = cell.block * SIZE // BLOCKS, cell.line * PITCH
        if cell.kind == "shape":
            width, height = rng.randint(13, 36), rng.randint(12, 15)
            if cell.shape == "circle":
                width = height
            x, y = left + rng.randint(0, 60), top + rng.randint(0, 1)
            ink.append(Ink((x, y, x + width, y + height), "shape", cell))
            continue
        start = left + shift_x[cell.block] + 1
        if cell.kind == "sign":
            start += rng.choice((0, 0, 16, 32, 48))
        ink.append(_text(font, size, start, top + shift_y, "word", cell.word, cell))
        if cell.kind == "item":
            for offset, what in ((52, "price"), (82, "stock")):
                number = str(getattr(cell, what))
                ink.append(_text(font, size, start + offset, top + shift_y, what, number, cell))
    return ink


def _text(font: str, size: int, x: int, y: int, what: str, text: str, cell: Cell) -> Ink:
    sprite = _sprite(font, size, text)
    return Ink((x, y, x + sprite.width, y + sprite.height), what, cell)


@cache
def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    import matplotlib

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


@cache
def _sprite(font: str, size: int, text: str) -> Image.Image:
    """Grey mask of ``text``, one 16 px line high, baseline at 12 px, cropped in x."""
    face = _font(font, size)
    x0, _, x1, _ = face.getbbox(text, anchor="ls")
    mask = Image.new("L", (int(x1 - x0) + 1, PITCH), 0)
    ImageDraw.Draw(mask).text((-x0, 12), text, fill=255, font=face, anchor="ls")
    return mask


def _draw_shape(
    draw: ImageDraw.ImageDraw, shape: str, box: tuple[int, int, int, int], rgb: tuple[int, int, int]
) -> None:
    x0, y0, x1, y1 = box
    if shape == "circle":
        draw.ellipse(box, fill=rgb)
    elif shape == "rectangle":
        draw.rectangle(box, fill=rgb)
    else:
        draw.polygon([((x0 + x1) // 2, y0), (x1, y1), (x0, y1)], fill=rgb)


def _ground(rng: random.Random, dark: bool) -> tuple[int, int, int]:
    low, high = (10, 70) if dark else (190, 250)
    return rng.randint(low, high), rng.randint(low, high), rng.randint(low, high)


def _contrast(a: tuple[int, int, int], b: tuple[int, int, int]) -> float:
    weights = (0.4, 0.45, 0.15)
    grey = abs(sum(w * (x - y) for w, x, y in zip(weights, a, b, strict=True)))
    return grey + 0.15 * sum(abs(x - y) for x, y in zip(a, b, strict=True))


def _jitter(rng: random.Random, rgb: tuple[int, int, int], by: int) -> tuple[int, int, int]:
    red, green, blue = (min(255, max(0, c + rng.randint(-by, by))) for c in rgb)
    return red, green, blue


def _background(page: Page) -> np.ndarray:
    rng = np.random.default_rng(page.noise_seed)
    field = np.empty((SIZE, SIZE, 3), dtype=np.float32)
    field[:] = page.ground
    if page.texture in ("gradient", "blobs", "stripes"):
        if page.texture == "stripes":
            wave = np.sin(np.arange(SIZE, dtype=np.float32) * rng.uniform(0.05, 0.9))
            wave = wave[:, None] if rng.random() < 0.5 else wave[None]
            tone = np.broadcast_to(wave, (SIZE, SIZE))
        else:
            cells = 2 if page.texture == "gradient" else int(rng.integers(4, 15))
            grid = rng.integers(0, 255, (cells, cells), dtype=np.uint8)
            tone = np.asarray(Image.fromarray(grid).resize((SIZE, SIZE), Image.Resampling.BILINEAR))
            tone = tone.astype(np.float32) / 127.5 - 1
        field += tone[..., None] * rng.uniform(8, 22, 3).astype(np.float32)
    if page.texture != "plain":
        grain = rng.integers(0, 256, (SIZE, SIZE, 1), dtype=np.uint8).astype(np.float32)
        field += (grain - 127.5) * np.float32(rng.uniform(0.03, 0.18))
    return np.clip(field, 0, 255).astype(np.uint8)
