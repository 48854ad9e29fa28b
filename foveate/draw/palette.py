"""Colours, fonts and the legend that all pictures share."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

# Okabe-Ito colours: told apart with any kind of colour vision.
KEPT = (0, 114, 178)
MERGED = (230, 159, 0)
DROPPED = (200, 203, 207)
INK = (33, 37, 41)
FAINT = (108, 117, 125)
PAPER = (255, 255, 255)

MARGIN = 20
TITLE_SIZE, TEXT_SIZE = 20, 16
LINE = 26  # px from one line of text to the next


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What the legend says: before = kept + merged + dropped."""

    before: int
    kept: int
    merged: int
    dropped: int


def hex_colour(colour: tuple[int, int, int]) -> str:
    """As HTML and SVG write it."""
    return "#{:02x}{:02x}{:02x}".format(*colour)


def font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """Pillow's built-in font, so that pictures look alike on every machine."""
    return ImageFont.load_default(size)


def framed(
    body: Image.Image, *, title: str, counts: Counts, notes: tuple[str, ...] = ()
) -> Image.Image:
    """`body` below a title line, above the legend and the notes, on white."""
    legend = [
        (KEPT, f"kept: {counts.kept} of {counts.before}"),
        (MERGED, f"merged into a kept one: {counts.merged}"),
        (DROPPED, f"dropped: {counts.dropped}"),
    ]
    text = font(TEXT_SIZE)
    widths = [30 + int(text.getlength(label)) + 24 for _, label in legend]
    lines = _wrapped(widths, max(body.width, 380))
    title_lines = _broken(title, font(TITLE_SIZE), max(body.width, 380))
    note_lines = [line for note in notes for line in _broken(note, text, max(body.width, 380))]
    top = MARGIN + len(title_lines) * (LINE + 2) + 6
    width = max(body.width, 380) + 2 * MARGIN
    below = top + body.height + 14
    height = below + LINE * (len(lines) + len(note_lines)) + MARGIN - 4
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    for i, line in enumerate(title_lines):
        draw.text((MARGIN, MARGIN + i * (LINE + 2) - 4), line, fill=INK, font=font(TITLE_SIZE))
    sheet.paste(body, (MARGIN, top))
    y = below
    for entries in lines:
        x = MARGIN
        for i in entries:
            colour, label = legend[i]
            _swatch(draw, x, y, colour)
            draw.text((x + 26, y), label, fill=INK, font=text)
            x += widths[i]
        y += LINE
    for line in note_lines:
        draw.text((MARGIN, y), line, fill=FAINT, font=text)
        y += LINE
    return sheet


def side_by_side(pictures: list[Image.Image], *, columns: int = 3) -> Image.Image:
    """Pictures in rows of `columns`, top-aligned, on white."""
    rows = [pictures[i : i + columns] for i in range(0, len(pictures), columns)]
    width = max(sum(p.width for p in row) for row in rows)
    sheet = Image.new("RGB", (width, sum(max(p.height for p in row) for row in rows)), PAPER)
    y = 0
    for row in rows:
        x = 0
        for picture in row:
            sheet.paste(picture, (x, y))
            x += picture.width
        y += max(p.height for p in row)
    return sheet


def _swatch(draw: ImageDraw.ImageDraw, x: int, y: int, colour: tuple[int, int, int]) -> None:
    box = (x, y + 1, x + 17, y + 18)
    if colour == MERGED:
        draw.rectangle(box, fill=(252, 240, 214), outline=colour, width=2)
    elif colour == KEPT:
        draw.rectangle(box, fill=(150, 200, 230), outline=colour, width=2)
    else:
        draw.rectangle(box, fill=colour)


def _wrapped(widths: list[int], limit: int) -> list[list[int]]:
    """Indices of legend entries, line by line."""
    lines: list[list[int]] = [[]]
    for i, width in enumerate(widths):
        if lines[-1] and sum(widths[j] for j in lines[-1]) + width > limit:
            lines.append([])
        lines[-1].append(i)
    return lines


def _broken(text: str, face: ImageFont.ImageFont | ImageFont.FreeTypeFont, limit: int) -> list[str]:
    """`text` in lines of at most `limit` px, cut at spaces."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and face.getlength(longer) > limit:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines if text else []
