"""Accuracy against the share of visual tokens that is kept, with error bars and controls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Point", "draw_accuracy"]

# Okabe-Ito, then dashes tell more methods apart.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9")
CONTROL_STYLES = {"random": ("#6c757d", ":"), "uniform": ("#6c757d", "--")}


@dataclass(frozen=True, kw_only=True)
class Point:
    """One method at one budget: shares in [0, 1]."""

    method: str
    kept_share: float
    value: float
    low: float
    high: float


def draw_accuracy(
    points: Sequence[Point], *, full: Point, blind: Point, title: str, path: str | Path
) -> None:
    """Write the plot to `path` (PNG, SVG or PDF by its suffix).

    Args:
        points: all methods at all budgets.
        full: without compression, drawn as a band.
        blind: without the image, drawn as a band: what can be guessed.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    figure = Figure(figsize=(7.2, 4.6), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    for point, colour, label in ((full, "#212529", "all tokens"), (blind, "#adb5bd", "no image")):
        axes.axhspan(100 * point.low, 100 * point.high, color=colour, alpha=0.12, linewidth=0)
        axes.axhline(100 * point.value, color=colour, linewidth=1.2, label=label)
    methods = list(dict.fromkeys(point.method for point in points))
    plain = [name for name in methods if name not in CONTROL_STYLES]
    for number, name in enumerate(methods):
        own = sorted((p for p in points if p.method == name), key=lambda p: p.kept_share)
        colour, style = CONTROL_STYLES.get(
            name, (COLOURS[plain.index(name) % len(COLOURS)] if name in plain else "k", "-")
        )
        # Methods share budgets: a small shift keeps their error bars apart.
        shift = 1 + 0.025 * (number - (len(methods) - 1) / 2)
        axes.errorbar(
            [100 * p.kept_share * shift for p in own],
            [100 * p.value for p in own],
            yerr=[
                [100 * (p.value - p.low) for p in own],
                [100 * (p.high - p.value) for p in own],
            ],
            color=colour,
            linestyle=style,
            marker="o",
            markersize=4.5,
            capsize=3,
            linewidth=1.6,
            label=name,
        )
    axes.set_xscale("log", base=2)
    ticks = sorted({round(100 * p.kept_share, 2) for p in points})
    axes.set_xticks(ticks)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g} %"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g} %"))
    axes.minorticks_off()
    axes.set_ylim(0, min(100, 105 * max(p.high for p in (full, blind, *points))))
    axes.set_xlabel("visual tokens kept")
    axes.set_ylabel("exact match (95 % interval)")
    axes.set_title(title, fontsize=11, loc="left")
    axes.grid(axis="y", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=9, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(path)
