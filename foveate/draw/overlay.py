"""What became of each visual token, drawn on the image it stands for."""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image, ImageDraw

from foveate.core.plan import KeepPlan
from foveate.draw.palette import DROPPED, KEPT, MERGED, PAPER, Counts, framed, side_by_side

__all__ = ["Box", "check_drawable", "draw_plan", "side_by_side"]

Box = tuple[float, float, float, float]
Grid = tuple[int, int]

MIN_SIDE, MAX_SIDE = 560, 1400  # px of the longer side: of what the model sees, of the picture
MIN_SHORT_SIDE = 380  # px, where MAX_SIDE allows
MIN_CELL = 10  # px of a token's shorter side, where MAX_SIDE allows
NEAR = 2.5  # links up to this many tokens long are straight
THINNEST = 5  # px of a token's shorter side in any case


def check_drawable(plan: KeepPlan | None, num_tokens: int, grid: Grid | None) -> None:
    """ValueError unless plan and grid are of one image with `num_tokens` tokens."""
    if plan is not None and (plan.num_images != 1 or plan.num_tokens != num_tokens):
        raise ValueError(
            f"plan is of {plan.num_images} images with {plan.num_tokens} tokens; expected one "
            f"image with {num_tokens}."
        )
    if grid is not None and grid[0] * grid[1] != num_tokens:
        raise ValueError(f"grid {grid[0]} x {grid[1]} does not hold {num_tokens} tokens.")


def draw_plan(
    image: Image.Image,
    plan: KeepPlan | None,
    *,
    num_tokens: int,
    grid: Grid | None,
    seen: Box | None = None,
    title: str = "",
) -> Image.Image:
    """A picture of one image's plan, with a legend.

    Kept tokens show the image as it is, merged ones are outlined and linked to the token that took
    them in, dropped ones are greyed. Without a token grid (an image cut into tiles) the tokens are
    drawn as a strip in reading order next to the image, and the picture says so.

    Args:
        image: RGB, any size.
        plan: of this image alone (G = 1); None if it was kept whole.
        num_tokens: N, visual tokens of the image.
        grid: (rows, columns) with rows x columns = N, or None.
        seen: (left, top, right, bottom) in pixels of the part that the model sees; None = all.
        title: a line above the picture.

    Raises:
        ValueError: plan or grid do not fit num_tokens, or the plan is of several images.
    """
    check_drawable(plan, num_tokens, grid)
    status = np.full(num_tokens, 2) if plan is None else plan.status()[0].cpu().numpy()
    links = [] if plan is None else _links(plan)
    counts = Counts(
        before=num_tokens,
        kept=int((status == 2).sum()),
        merged=int((status == 1).sum()),
        dropped=int((status == 0).sum()),
    )
    if grid is not None:
        body, notes = _on_image(image, status, links, grid, seen)
    else:
        body, notes = _as_strip(image, status, links)
    return framed(body, title=title, counts=counts, notes=notes)


def _links(plan: KeepPlan) -> list[tuple[int, int]]:
    """(merged token, its target)."""
    pairs = torch.stack([plan.merge_src[0], plan.merge_dst[0]], dim=-1)
    return [(int(a), int(b)) for a, b in pairs.tolist()]


def _on_image(
    image: Image.Image,
    status: np.ndarray,
    links: list[tuple[int, int]],
    grid: Grid,
    seen: Box | None,
) -> tuple[Image.Image, tuple[str, ...]]:
    rows, columns = grid
    left, top, right, bottom = seen or (0, 0, image.width, image.height)
    cell = min((right - left) / columns, (bottom - top) / rows)  # px of the original image
    sides = (right - left, bottom - top)
    scale = max(MIN_SIDE / max(sides), MIN_SHORT_SIDE / min(sides), MIN_CELL / cell)
    scale = min(scale, MAX_SIDE / max(image.width, image.height))
    # A ribbon of an image is stretched, so that no token is thinner than its frame.
    size = (
        round(max(image.width * scale, columns * THINNEST * image.width / (right - left))),
        round(max(image.height * scale, rows * THINNEST * image.height / (bottom - top))),
    )
    across, down = size[0] / image.width, size[1] / image.height
    smooth = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC
    picture = image.convert("RGB").resize(size, smooth)
    washed = _washed(picture)

    xs = [round((left + (right - left) * i / columns) * across) for i in range(columns + 1)]
    ys = [round((top + (bottom - top) * i / rows) * down) for i in range(rows + 1)]
    boxes = [
        (xs[i % columns], ys[i // columns], xs[i % columns + 1], ys[i // columns + 1])
        for i in range(rows * columns)
    ]
    body = washed.copy()
    for i, box in enumerate(boxes):
        if status[i] == 2:
            body.paste(picture.crop(box), box[:2])
        elif status[i] == 1:
            body.paste(Image.blend(washed.crop(box), picture.crop(box), 0.35), box[:2])
    _outline(body, boxes, status, links, width=1 if cell * scale < 24 else 2)
    notes: tuple[str, ...] = ()
    if seen is not None and (right - left) * (bottom - top) < 0.99 * image.width * image.height:
        _hide_outside(body, (xs[0], ys[0], xs[-1], ys[-1]))
        notes = ("The model sees the centre crop only; what is hatched never reaches it.",)
    return body, notes


def _as_strip(
    image: Image.Image, status: np.ndarray, links: list[tuple[int, int]]
) -> tuple[Image.Image, tuple[str, ...]]:
    height = 480
    scale = min(height / image.height, 560 / image.width)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    picture = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    num_tokens = len(status)
    rows = max(1, round(math.sqrt(num_tokens / 1.3)))
    columns = math.ceil(num_tokens / rows)
    cell = max(4, min(24, height // rows))
    strip = Image.new("RGB", (columns * cell + 1, rows * cell + 1), PAPER)
    draw = ImageDraw.Draw(strip)
    boxes = []
    for i in range(num_tokens):
        x, y = (i % columns) * cell, (i // columns) * cell
        boxes.append((x, y, x + cell, y + cell))
        fill = ((228, 230, 233), (252, 240, 214), (150, 200, 230))[int(status[i])]
        draw.rectangle((x + 1, y + 1, x + cell - 1, y + cell - 1), fill=fill)
    _outline(strip, boxes, status, links, width=1)
    gap = 24
    body = Image.new(
        "RGB", (picture.width + gap + strip.width, max(picture.height, strip.height)), PAPER
    )
    body.paste(picture, (0, 0))
    body.paste(strip, (picture.width + gap, 0))
    note = (
        "Right: tokens in the model's reading order, line by line. This model's tokens form no "
        "single grid (it cuts images into tiles), so they are not drawn onto the image."
    )
    return body, (note,)


def _outline(
    body: Image.Image,
    boxes: list[tuple[int, int, int, int]],
    status: np.ndarray,
    links: list[tuple[int, int]],
    *,
    width: int,
) -> None:
    """Frames of merged and kept tokens, then links; smooth lines by drawing at twice the size."""
    up = 2
    layer = Image.new("RGBA", (body.width * up, body.height * up), (0, 0, 0, 0))
    draw = ImageDraw.Draw(layer)
    for kind, colour in ((1, MERGED), (2, KEPT)):
        for i, (x0, y0, x1, y1) in enumerate(boxes):
            if status[i] == kind:
                frame = (x0 * up + 1, y0 * up + 1, x1 * up - 2, y1 * up - 2)
                draw.rectangle(frame, outline=(*colour, 255), width=width * up)
    near = NEAR * up * max(boxes[0][2] - boxes[0][0], boxes[0][3] - boxes[0][1])
    arcs = [_arc(_centre(boxes[a], up), _centre(boxes[b], up), near, layer.size) for a, b in links]
    for arc in arcs:
        draw.line(arc, fill=(255, 255, 255, 170), width=(width + 2) * up, joint="curve")
    for arc in arcs:
        draw.line(arc, fill=(*MERGED, 255), width=(width + 1) * up - 1, joint="curve")
    radius = max(2, 2 * width) * up
    for target in {target for _, target in links}:
        x, y = _centre(boxes[target], up)
        draw.ellipse(
            (x - radius, y - radius, x + radius, y + radius),
            fill=(*MERGED, 255),
            outline=(255, 255, 255, 255),
            width=up,
        )
    layer = layer.resize(body.size, Image.Resampling.LANCZOS)
    body.paste(layer, (0, 0), layer)


def _centre(box: tuple[int, int, int, int], up: int) -> tuple[float, float]:
    return (box[0] + box[2]) * up / 2, (box[1] + box[3]) * up / 2


def _arc(
    a: tuple[float, float], b: tuple[float, float], near: float, size: tuple[int, int]
) -> list[tuple[float, float]]:
    """A line from a to b inside `size`, bent if long, so that links along one row stay apart."""
    bend = 0.1 if math.dist(a, b) > near else 0.0
    control = (
        (a[0] + b[0]) / 2 - bend * 2 * (b[1] - a[1]),
        (a[1] + b[1]) / 2 + bend * 2 * (b[0] - a[0]),
    )
    points = []
    for step in range(17):
        t = step / 16
        weights = ((1 - t) ** 2, 2 * t * (1 - t), t**2)
        x, y = (
            sum(w * p[i] for w, p in zip(weights, (a, control, b), strict=True)) for i in (0, 1)
        )
        points.append((min(max(x, 0.0), size[0] - 1.0), min(max(y, 0.0), size[1] - 1.0)))
    return points


def _washed(picture: Image.Image) -> Image.Image:
    """Grey and pale, yet recognisable: what the model no longer has."""
    grey = picture.convert("L").convert("RGB")
    return Image.blend(grey, Image.new("RGB", picture.size, DROPPED), 0.72)


def _hide_outside(body: Image.Image, box: tuple[int, int, int, int]) -> None:
    """Hatch everything outside `box`."""
    hatch = Image.new("RGB", body.size, (245, 245, 245))
    draw = ImageDraw.Draw(hatch)
    for x in range(-body.height, body.width, 12):
        draw.line((x, body.height, x + body.height, 0), fill=(205, 205, 205), width=1)
    hatch.paste(body.crop(box), box[:2])
    body.paste(hatch)
