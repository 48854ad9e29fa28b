"""One question at all budgets as a small SVG: how likely the full answer stays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from foveate.draw.palette import FAINT, INK, KEPT, hex_colour

__all__ = ["BudgetPoint", "agreement_plot"]

WIDTH, HEIGHT = 560, 240
LEFT, RIGHT, TOP, BOTTOM = 52, 28, 14, 44
LOWEST = 0.02  # share of the tokens at the left end; the axis is logarithmic
TICKS = (0.03, 0.06, 0.125, 0.25, 0.5, 1.0)


@dataclass(frozen=True, kw_only=True)
class BudgetPoint:
    """One budget: its share, the probability of the full answer, whether that was given."""

    keep_ratio: float
    probability: float
    is_same: bool


def agreement_plot(points: Sequence[BudgetPoint], *, chosen: float | None = None) -> str:
    """An SVG element: filled where the answer is that of the full model, hollow where not.

    Args:
        points: in any order; shares in (0, 1].
        chosen: budget to mark with a line.
    """
    ordered = sorted(points, key=lambda point: point.keep_ratio)
    same = [point.keep_ratio for point in ordered if point.is_same]
    label = (
        f"Answer agreement at {len(ordered)} budgets from {_percent(ordered[0].keep_ratio)} to "
        f"{_percent(ordered[-1].keep_ratio)} of the visual tokens: the full answer is given at "
        f"{len(same)} of them"
        if ordered
        else "Answer agreement: no budget measured yet"
    )
    ink, faint, kept = (hex_colour(c) for c in (INK, FAINT, KEPT))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="agreement" role="img" '
        f'viewBox="0 0 {WIDTH} {HEIGHT}" aria-label="{escape(label)}" font-size="13" '
        f'font-family="system-ui, sans-serif" fill="{ink}">'
    ]
    for value in (0.0, 0.5, 1.0):
        y = _y(value)
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="{faint}" '
            f'stroke-opacity=".3"/><text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">'
            f"{_percent(value)}</text>"
        )
    parts += [
        f'<text x="{_x(tick):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">'
        f"{_percent(tick)}</text>"
        for tick in TICKS
    ]
    parts.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 6}" text-anchor="middle" '
        f'fill="{faint}">visual tokens kept</text>'
    )
    if chosen is not None:
        x = _x(chosen)
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" stroke="{ink}" '
            f'stroke-dasharray="4 3"><title>the budget chosen</title></line>'
        )
    path = " ".join(f"{_x(p.keep_ratio):.1f},{_y(p.probability):.1f}" for p in ordered)
    parts.append(f'<polyline points="{path}" fill="none" stroke="{kept}" stroke-width="2"/>')
    for point in ordered:
        says = "same answer" if point.is_same else "another answer"
        parts.append(
            f'<circle cx="{_x(point.keep_ratio):.1f}" cy="{_y(point.probability):.1f}" r="5.5" '
            f'stroke="{kept}" stroke-width="2" fill="{kept if point.is_same else "#fff"}">'
            f"<title>{_percent(point.keep_ratio)}: {says}, probability "
            f"{_percent(point.probability)}</title></circle>"
        )
    return "".join([*parts, "</svg>"])


def _x(share: float) -> float:
    place = math.log(max(share, LOWEST) / LOWEST) / math.log(1 / LOWEST)
    return LEFT + place * (WIDTH - LEFT - RIGHT)


def _y(value: float) -> float:
    return TOP + (1 - value) * (HEIGHT - TOP - BOTTOM)


def _percent(value: float) -> str:
    return f"{100 * value:.3g} %"
