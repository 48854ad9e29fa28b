"""Pictures that people send to a model and we can draw: screens, pages of text, and two controls.

Everything follows from the name and the seed; Pillow draws with the shipped font.
"""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from foveate.text_image.font_file import shipped_font

__all__ = ["CONTROLS", "PAGES", "SCREENS", "as_jpeg"]

Draw = Callable[[int], Image.Image]
Colour = tuple[int, int, int]

INK, GREY, LINE = (32, 33, 36), (95, 99, 104), (218, 220, 224)
ACCENTS = ((26, 115, 232), (217, 48, 37), (24, 128, 56), (249, 171, 0), (123, 31, 162))
A4 = (1240, 1754)  # at 150 dots an inch


def words(rng: random.Random, count: int) -> str:
    """Some words of the project's licence."""
    text = (Path(__file__).resolve().parents[1] / "LICENSE").read_text().split()
    start = rng.randrange(len(text) - count)
    return " ".join(text[start : start + count])


def font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(shipped_font()), size, layout_engine=ImageFont.Layout.BASIC)


class Canvas:
    """A picture under way, with the random choices of its seed."""

    def __init__(self, size: tuple[int, int], ground: Colour, seed: int) -> None:
        self.image = Image.new("RGB", size, ground)
        self.pen = ImageDraw.Draw(self.image)
        self.rng = random.Random(seed)

    def text(self, x: float, y: float, text: str, size: int = 15, fill: Colour = INK) -> None:
        self.pen.text((round(x), round(y)), text, font=font(size), fill=fill)

    def lines(self, box: tuple[int, int, int, int], size: int, fill: Colour, full: bool) -> None:
        """Running text in a box; not full: lines of any length, as a terminal shows them."""
        left, top, right, bottom = box
        step = round(1.45 * size)
        for y in range(top, bottom - step, step):
            text = words(self.rng, self.rng.randint(2, 24) if not full else 40)
            while text and font(size).getlength(text) > right - left:
                text = text.rsplit(" ", 1)[0] if " " in text else ""
            self.text(left, y, text, size, fill)

    def window(self, box: tuple[int, int, int, int], ground: Colour = (255, 255, 255)) -> None:
        """A frame with a title bar of 36 px and its three buttons."""
        left, top, right, _ = box
        self.pen.rectangle(box, fill=ground, outline=LINE)
        self.pen.rectangle((left, top, right, top + 36), fill=(241, 243, 244), outline=LINE)
        for i, colour in enumerate(ACCENTS[1:4]):
            x = right - 24 * (i + 1)
            self.pen.ellipse((x, top + 11, x + 14, top + 25), fill=colour)
        self.text(left + 12, top + 9, words(self.rng, 3), 15)


def terminal(seed: int) -> Image.Image:
    canvas = Canvas((1280, 720), (30, 30, 30), seed)
    for box in ((12, 8, 640, 712), (650, 8, 1268, 712)):
        canvas.lines(box, 14, (204, 204, 204), full=False)
    canvas.pen.line((645, 0, 645, 720), fill=GREY)
    return canvas.image


def form(seed: int) -> Image.Image:
    canvas = Canvas((1280, 720), (248, 249, 250), seed)
    canvas.window((160, 40, 1120, 680))
    for row in range(8):
        y = 100 + 62 * row
        canvas.text(200, y + 6, words(canvas.rng, 2), 15, GREY)
        canvas.pen.rounded_rectangle((420, y, 1060, y + 38), 4, fill=(255, 255, 255), outline=LINE)
        if canvas.rng.random() < 0.7:
            canvas.text(432, y + 8, words(canvas.rng, canvas.rng.randint(1, 6)), 15)
    canvas.pen.rounded_rectangle((940, 610, 1060, 650), 6, fill=ACCENTS[0])
    canvas.text(968, 619, "Submit", 16, (255, 255, 255))
    return canvas.image


def table(seed: int) -> Image.Image:
    canvas = Canvas((1920, 1080), (255, 255, 255), seed)
    canvas.pen.rectangle((0, 0, 1920, 60), fill=(24, 128, 56))
    canvas.text(20, 18, words(canvas.rng, 5), 20, (255, 255, 255))
    for row in range(36):
        y = 60 + 28 * row
        canvas.pen.line((0, y, 1920, y), fill=LINE)
        for column in range(12):
            if canvas.rng.random() < 0.6:
                text = f"{canvas.rng.uniform(0, 9999):,.2f}" if column else words(canvas.rng, 2)
                canvas.text(160 * column + 8, y + 5, text, 14)
    for column in range(13):
        canvas.pen.line((160 * column, 60, 160 * column, 1080), fill=LINE)
    return canvas.image


def chart(seed: int) -> Image.Image:
    canvas = Canvas((1600, 900), (255, 255, 255), seed)
    canvas.text(80, 24, words(canvas.rng, 6), 24)
    for i in range(9):
        y = 820 - 90 * i
        canvas.pen.line((80, y, 1540, y), fill=LINE)
        canvas.text(30, y - 9, f"{25 * i}", 14, GREY)
    for i in range(24):
        top = 820 - canvas.rng.randint(40, 640)
        canvas.pen.rectangle((96 + 60 * i, top, 130 + 60 * i, 820), fill=ACCENTS[i % 2])
    for colour in ACCENTS[2:]:
        points = [(113 + 60 * i, 820 - canvas.rng.randint(80, 700)) for i in range(24)]
        canvas.pen.line(points, fill=colour, width=3, joint="curve")
    return canvas.image


def desktop(seed: int) -> Image.Image:
    """Two windows on a wallpaper that runs from one colour to another."""
    ramp = np.linspace(0, 1, 1080)[:, None, None]
    colours = np.array(ACCENTS)[[seed % 5, (seed + 1) % 5]]
    wall = np.broadcast_to((1 - ramp) * colours[0] + ramp * colours[1], (1080, 1920, 3))
    canvas = Canvas((1920, 1080), INK, seed)
    canvas.image.paste(Image.fromarray(wall.round().astype(np.uint8)))
    canvas.window((90, 70, 1000, 760))
    canvas.lines((110, 120, 980, 750), 16, INK, full=True)
    canvas.window((1080, 220, 1800, 900), (40, 44, 52))
    canvas.lines((1100, 270, 1780, 890), 14, (171, 178, 191), full=False)
    canvas.pen.rectangle((0, 1040, 1920, 1080), fill=INK)
    for i in range(8):
        canvas.pen.rounded_rectangle((12 + 48 * i, 1046, 40 + 48 * i, 1074), 6, fill=ACCENTS[i % 5])
    return canvas.image


def page(size: int, seed: int) -> Image.Image:
    """A4 with margins of 2 cm, full of text."""
    canvas = Canvas(A4, (255, 255, 255), seed)
    canvas.lines((118, 118, A4[0] - 118, A4[1] - 118), size, INK, full=True)
    return canvas.image


def noise(seed: int) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (720, 1280, 3), dtype=np.uint8)
    return Image.fromarray(values)


def photo(seed: int) -> Image.Image:
    """Smooth shapes of all sizes under a camera's grain."""
    rng = np.random.default_rng(seed)
    total = np.zeros((720, 1280, 3))
    for side in (4, 8, 16, 32, 64):
        small = Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8))
        total += np.asarray(small.resize((1280, 720), Image.Resampling.BICUBIC)) / side
    total = 255 * total / total.max() + rng.normal(0, 1.5, total.shape)
    return Image.fromarray(total.clip(0, 255).round().astype(np.uint8))


def as_jpeg(image: Image.Image, quality: int) -> Image.Image:
    """The picture after it was stored as a JPEG."""
    stored = io.BytesIO()
    image.save(stored, "JPEG", quality=quality)
    return Image.open(stored).convert("RGB")


SCREENS: dict[str, Draw] = {
    "terminal, 1280x720": terminal,
    "form, 1280x720": form,
    "chart, 1600x900": chart,
    "table, 1920x1080": table,
    "desktop, 1920x1080": desktop,
}
PAGES: dict[str, Draw] = {f"A4 page, text of {px} px": partial(page, px) for px in (16, 24, 36)}
CONTROLS: dict[str, Draw] = {"photo with grain, 1280x720": photo, "noise, 1280x720": noise}
