"""Loss against cost of settings, with bounds, and the limit that they were held to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["LossPoint", "draw_losses"]

# Okabe-Ito; what became of a setting is told by its marker too.
STYLES = {
    "chosen": ("#009E73", "*", 15.0),
    "proven": ("#009E73", "o", 6.0),
    "not proven": ("#E69F00", "s", 5.5),
    "set aside": ("#56B4E9", "^", 5.0),
    "saves nothing": ("#6c757d", "v", 5.0),
    "loses too much": ("#adb5bd", "x", 5.0),
}


@dataclass(frozen=True, kw_only=True)
class LossPoint:
    """One setting: cost against the full model, loss with its bounds, and what became of it."""

    name: str
    cost: float
    value: float
    low: float
    high: float
    fate: str


def draw_losses(
    points: Sequence[LossPoint],
    *,
    max_loss: float,
    cost_label: str,
    loss_label: str,
    title: str,
    path: str | Path,
) -> None:
    """Write the plot to `path` (PNG, SVG or PDF by its suffix).

    Args:
        points: all settings.
        max_loss: what was allowed, a line.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.6, 4.8), dpi=140, layout="constrained")
    axes = figure.add_subplot()
    for fate, (colour, marker, size) in STYLES.items():
        own = [point for point in points if point.fate == fate]
        if not own:
            continue
        axes.errorbar(
            [100 * p.cost for p in own],
            [100 * p.value for p in own],
            yerr=[
                [100 * (p.value - p.low) for p in own],
                [100 * (p.high - p.value) for p in own],
            ],
            color=colour,
            marker=marker,
            markersize=size,
            linestyle="none",
            elinewidth=0.8,
            label=fate,
            zorder=3 if fate == "chosen" else 2,
        )
    for point in points:
        if point.fate in ("chosen", "proven", "not proven"):
            axes.annotate(
                point.name,
                (100 * point.cost, 100 * point.value),
                xytext=(5, 6),
                textcoords="offset points",
                fontsize=7.5,
            )
    axes.axhline(100 * max_loss, color="#D55E00", linewidth=1.2, label="allowed")
    axes.axhline(0, color="#212529", linewidth=0.8)
    # Settings that lose nearly everything would press all others flat.
    near = [p.high for p in points if p.fate != "loses too much"] or [p.high for p in points]
    axes.set_ylim(-100 * max(0.02, max_loss), 110 * max(*near, 2 * max_loss))
    axes.set_xlabel(cost_label)
    axes.set_ylabel(loss_label)
    axes.set_title(title, fontsize=10)
    axes.grid(axis="y", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
    figure.savefig(path)
