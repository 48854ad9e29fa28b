"""Accuracy against what it costs: visual tokens kept, prefill FLOPs, measured prefill time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foveate.files import replacing

__all__ = ["Point", "draw_accuracy"]

# Okabe-Ito without yellow; with as many markers and dashes, methods are told apart in grey too.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "h", "p")
DASHES = ("-", (0, (5, 1.5)), (0, (3, 1, 1, 1)))
# %, on a log axis: all of them, or every second one where they would overlap.
TICKS = (2, 3, 5, 7, 10, 15, 20, 30, 40, 60, 80, 100, 150, 200, 300)
WIDE = 6.0  # highest cost over lowest
CONTROL_STYLES: dict[str, dict[str, Any]] = {
    "random": {"color": "#6c757d", "linestyle": ":", "marker": "."},
    "uniform": {"color": "#6c757d", "linestyle": "--", "marker": "."},
}


@dataclass(frozen=True, kw_only=True)
class Point:
    """One method at one budget: accuracy and shares in [0, 1], ratios to the full run."""

    method: str
    kept_share: float
    value: float
    low: float
    high: float
    flops: float | None = None
    prefill: float | None = None


PANELS: tuple[tuple[str, Callable[[Point], float | None]], ...] = (
    ("visual tokens kept", lambda point: point.kept_share),
    ("prefill FLOPs, of the full run's", lambda point: point.flops),
    ("measured prefill time, of the full run's", lambda point: point.prefill),
)


def draw_accuracy(
    points: Sequence[Point], *, full: Point, blind: Point, title: str, path: str | Path
) -> None:
    """Write the plot to `path` (PNG, SVG or PDF by its suffix), a panel for each known cost.

    Args:
        points: all methods at all budgets.
        full: without compression, drawn as a band.
        blind: without the image, drawn as a band: what can be guessed.
    """
    from matplotlib.figure import Figure

    panels = [
        (label, cost) for label, cost in PANELS if any(cost(point) is not None for point in points)
    ]
    figure = Figure(figsize=(1.9 + 4.6 * len(panels), 4.8), dpi=130, layout="constrained")
    several = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    top = min(100, 105 * max(p.high for p in (full, blind, *points)))
    for axes, (label, cost) in zip(several, panels, strict=True):
        _draw_panel(axes, points, cost, full, blind, shares_budgets=label == PANELS[0][0])
        axes.set_ylim(0, top)
        axes.set_xlabel(label)
    several[0].set_ylabel("exact match (95 % interval)")
    figure.suptitle(title, fontsize=11)
    handles, labels = several[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8.5, frameon=False, loc="outside right center")
    with replacing(Path(path)) as file:
        figure.savefig(file, format=Path(path).suffix[1:])


def _draw_panel(
    axes: Any,
    points: Sequence[Point],
    cost: Callable[[Point], float | None],
    full: Point,
    blind: Point,
    *,
    shares_budgets: bool,
) -> None:
    """One panel.

    Args:
        shares_budgets: most points stand at a few common places.
    """
    from matplotlib.ticker import FuncFormatter, NullLocator

    for point, colour, label in ((full, "#212529", "all tokens"), (blind, "#adb5bd", "no image")):
        axes.axhspan(100 * point.low, 100 * point.high, color=colour, alpha=0.12, linewidth=0)
        axes.axhline(100 * point.value, color=colour, linewidth=1.2, label=label)
    methods = list(dict.fromkeys(point.method for point in points))
    ticks: set[float] = set()
    for number, name in enumerate(methods):
        own = [(100 * x, p) for p in points if p.method == name and (x := cost(p)) is not None]
        own.sort(key=lambda pair: pair[0])
        ticks |= {round(x, 2) for x, _ in own}
        # A small shift keeps error bars apart; where costs differ they stay where they are.
        spread = 0.1 / len(methods) * (number - (len(methods) - 1) / 2) if shares_budgets else 0
        axes.errorbar(
            [x * (1 + spread) for x, _ in own],
            [100 * p.value for _, p in own],
            yerr=[
                [100 * (p.value - p.low) for _, p in own],
                [100 * (p.high - p.value) for _, p in own],
            ],
            markersize=5,
            capsize=0,
            elinewidth=0.7,
            linewidth=1.3,
            label=name,
            **_style(name, methods),
        )
    axes.set_xscale("log", base=2)
    if not shares_budgets or len(ticks) > 6:
        low, high = 0.8 * min(ticks), 1.25 * max(ticks)
        known = TICKS[::2] if high > WIDE * low else TICKS
        ticks = {tick for tick in known if low <= tick <= high} or ticks
    axes.set_xticks(sorted(ticks))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.3g} %"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g} %"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(axis="y", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _style(name: str, methods: Sequence[str]) -> dict[str, Any]:
    """Colour, marker and dashes of a method; controls are grey."""
    if name in CONTROL_STYLES:
        return CONTROL_STYLES[name]
    place = [method for method in methods if method not in CONTROL_STYLES].index(name)
    return {
        "color": COLOURS[place % len(COLOURS)],
        "marker": MARKERS[place % len(MARKERS)],
        "linestyle": DASHES[place // len(COLOURS) % len(DASHES)],
    }
