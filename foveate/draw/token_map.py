"""The plan of one image as an SVG: every token is an element that says what became of it."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from html import escape

from PIL import Image

from foveate.core.plan import KeepPlan
from foveate.draw.overlay import Box, Grid, check_drawable
from foveate.draw.palette import DROPPED, INK, KEPT, MERGED, hex_colour

__all__ = ["FATES", "Fate", "fates_of", "token_map"]

# (what became of a token, the token it was merged into or None)
Fate = tuple[str, int | None]

FATES = ("dropped", "merged", "kept")
LONG_SIDE = 640  # px of the picture's longer side; it scales with the page
GAP = 24


def fates_of(plan: KeepPlan | None, num_tokens: int) -> list[Fate]:
    """What became of each token of one image; all are kept where there is no plan."""
    if plan is None:
        return [("kept", None)] * num_tokens
    target = dict(zip(plan.merge_src[0].tolist(), plan.merge_dst[0].tolist(), strict=True))
    status = plan.status()[0].tolist()
    return [(FATES[kind], target.get(i)) for i, kind in enumerate(status)]


def token_map(
    image: Image.Image,
    plan: KeepPlan | None,
    *,
    num_tokens: int,
    grid: Grid | None,
    seen: Box | None = None,
    titles: Sequence[str] = (),
) -> str:
    """An SVG element: kept tokens lit, merged ones outlined and linked, dropped ones dimmed.

    Each token is a `rect` with the attributes data-token and data-fate and a `title`, which
    browsers show on hover; each merge is a `line` with data-from and data-to. Nothing in it is
    loaded from elsewhere.

    Args:
        image: RGB, any size.
        plan: of this image alone (G = 1); None if it was kept whole.
        num_tokens: N, visual tokens of the image.
        grid: (rows, columns) with rows x columns = N; None draws the tokens as a field in reading
            order beside the image.
        seen: (left, top, right, bottom) px of the image that the model sees; None = all.
        titles: one text a token; () names each by its number and fate.

    Raises:
        ValueError: plan, grid or titles do not fit num_tokens.
    """
    check_drawable(plan, num_tokens, grid)
    if titles and len(titles) != num_tokens:
        raise ValueError(f"{len(titles)} titles for {num_tokens} tokens; give one each.")
    fates = fates_of(plan, num_tokens)
    scale = LONG_SIDE / max(image.size)
    width, height = image.width * scale, image.height * scale
    if grid is not None:
        boxes = _on_image(grid, seen or (0, 0, *image.size), scale)
        size = (width, height)
    else:
        boxes, size = _field(num_tokens, width, height)
    names = titles or [f"token {i}: {fate}" for i, (fate, _) in enumerate(fates)]
    counts = {kind: sum(fate == kind for fate, _ in fates) for kind in FATES}
    label = (
        f"{num_tokens} visual tokens: {counts['kept']} kept, {counts['merged']} merged into kept "
        f"ones, {counts['dropped']} dropped"
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="token-map" role="img" '
        f'viewBox="0 0 {size[0]:.1f} {size[1]:.1f}" aria-label="{escape(label)}">',
        f'<image href="{_data_uri(image, scale)}" width="{width:.1f}" height="{height:.1f}" '
        'preserveAspectRatio="none"/>',
    ]
    if grid is not None and seen is not None:
        parts.append(_outside(seen, scale, size))
    parts += [
        _token(i, box, fate, name)
        for i, (box, (fate, _), name) in enumerate(zip(boxes, fates, names, strict=True))
    ]
    parts += [_link(i, target, boxes) for i, (_, target) in enumerate(fates) if target is not None]
    return "".join([*parts, "</svg>"])


def _on_image(grid: Grid, seen: Box, scale: float) -> list[Box]:
    """(x, y, width, height) of each token over the part of the image that the model sees."""
    rows, columns = grid
    left, top, right, bottom = (side * scale for side in seen)
    across, down = (right - left) / columns, (bottom - top) / rows
    return [
        (left + across * (i % columns), top + down * (i // columns), across, down)
        for i in range(rows * columns)
    ]


def _field(num_tokens: int, width: float, height: float) -> tuple[list[Box], tuple[float, float]]:
    """Tokens line by line to the right of the image, and the size of both."""
    columns = max(1, math.ceil(math.sqrt(num_tokens * 1.3)))
    rows = math.ceil(num_tokens / columns)
    cell = max(4.0, min(24.0, height / rows))
    boxes = [
        (width + GAP + cell * (i % columns), cell * (i // columns), cell, cell)
        for i in range(num_tokens)
    ]
    return boxes, (width + GAP + cell * columns, max(height, cell * rows))


def _token(index: int, box: Box, fate: str, name: str) -> str:
    x, y, width, height = box
    line = 2 if min(width, height) >= 14 else 1
    if fate == "dropped":
        style = f'fill="{hex_colour(DROPPED)}" fill-opacity=".82"'
    else:
        colour = hex_colour(KEPT if fate == "kept" else MERGED)
        inside = "0" if fate == "kept" else ".38"
        style = (
            f'fill="{hex_colour(DROPPED)}" fill-opacity="{inside}" '
            f'stroke="{colour}" stroke-width="{line}"'
        )
        # Inside its own cell, so that neighbours do not cover each other's frames.
        x, y, width, height = (x + line / 2, y + line / 2, width - line, height - line)
    return (
        f'<rect data-token="{index}" data-fate="{fate}" x="{x:.1f}" y="{y:.1f}" '
        f'width="{width:.1f}" height="{height:.1f}" {style}><title>{escape(name)}</title></rect>'
    )


def _link(source: int, target: int, boxes: Sequence[Box]) -> str:
    (x0, y0), (x1, y1) = (
        (box[0] + box[2] / 2, box[1] + box[3] / 2) for box in (boxes[source], boxes[target])
    )
    ends = f'x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y1:.1f}"'
    # A wide pale line below makes it visible on any picture.
    return (
        f'<g data-from="{source}" data-to="{target}" pointer-events="none" stroke-linecap="round">'
        f'<line {ends} stroke="#fff" stroke-opacity=".7" stroke-width="5"/>'
        f'<line {ends} stroke="{hex_colour(MERGED)}" stroke-width="2.5"/>'
        f'<circle cx="{x1:.1f}" cy="{y1:.1f}" r="4" fill="{hex_colour(MERGED)}" stroke="#fff"/></g>'
    )


def _outside(seen: Box, scale: float, size: tuple[float, float]) -> str:
    """A veil over what never reaches the model, if there is any."""
    left, top, right, bottom = (side * scale for side in seen)
    if (right - left) * (bottom - top) >= 0.99 * size[0] * size[1]:
        return ""
    return (
        f'<path fill="{hex_colour(INK)}" fill-opacity=".75" fill-rule="evenodd" '
        f'd="M0 0H{size[0]:.1f}V{size[1]:.1f}H0Z'
        f'M{left:.1f} {top:.1f}H{right:.1f}V{bottom:.1f}H{left:.1f}Z">'
        "<title>the model sees the centre crop only</title></path>"
    )


def _data_uri(image: Image.Image, scale: float) -> str:
    """The picture itself, so that the SVG needs no second file."""
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    small = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    file = io.BytesIO()
    small.save(file, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
