"""The arms of an evaluation over a common axis, with error bars."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from foveate.draw.accuracy_plot import COLOURS
from foveate.files import replacing

__all__ = ["ArmCurve", "draw_arms"]

# Controls are grey: what they reach needs no trained part.
CONTROLS = {
    "none": ("#adb5bd", "-"),
    "raw": ("#212529", "-"),
    "truncated": ("#6c757d", "--"),
    "random": ("#6c757d", ":"),
}


@dataclass(frozen=True, kw_only=True)
class ArmCurve:
    """One arm.

    Args:
        name: of the arm; "vist-shuffled" is drawn like "vist", dashed.
        x: numbers, or names of groups.
        y, low, high: an estimate and its interval at each x.
    """

    name: str
    x: tuple[float | str, ...]
    y: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


def draw_arms(
    curves: Sequence[ArmCurve],
    *,
    title: str,
    x_label: str,
    y_label: str,
    log_x: bool,
    path: str | Path,
) -> None:
    """Write the plot to `path` (PNG, SVG or PDF by its suffix).

    Args:
        curves: all arms; groups by name stand side by side, numbers on an axis.
        log_x: logarithmic axis, base 2.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    figure = Figure(figsize=(7.6, 4.6), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    places = list(dict.fromkeys(x for curve in curves for x in curve.x))
    is_named = any(isinstance(x, str) for x in places)
    families = list(dict.fromkeys(_family(c.name) for c in curves if c.name not in CONTROLS))
    for number, curve in enumerate(curves):
        colour, style = CONTROLS.get(curve.name, ("", "-"))
        if not colour:
            colour = COLOURS[families.index(_family(curve.name)) % len(COLOURS)]
            style = "-" if curve.name == _family(curve.name) else "--"
        shift = number - (len(curves) - 1) / 2
        x = [
            places.index(at) + 0.07 * shift
            if is_named
            else float(at) * (1 + 0.012 * shift if log_x else 1)
            for at in curve.x
        ]
        axes.errorbar(
            x,
            list(curve.y),
            yerr=[
                [_reach(y, end) for y, end in zip(curve.y, curve.low, strict=True)],
                [_reach(y, end) for y, end in zip(curve.y, curve.high, strict=True)],
            ],
            color=colour,
            linestyle="none" if is_named else style,
            marker="o" if style == "-" else "s",
            markerfacecolor=colour if style == "-" else "white",
            markersize=4.5,
            capsize=2.5,
            linewidth=1.5,
            label=curve.name,
        )
    if is_named:
        axes.set_xticks(range(len(places)), [str(name) for name in places], rotation=35, ha="right")
    elif log_x:
        axes.set_xscale("log", base=2)
        axes.set_xticks(sorted({float(x) for x in places}))
        axes.xaxis.set_major_formatter(
            FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 100 else f"{value:.3g}")
        )
        axes.minorticks_off()
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.set_title(title, fontsize=11, loc="left")
    axes.grid(axis="y", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=9, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    with replacing(Path(path)) as file:
        figure.savefig(file, format=Path(path).suffix[1:])


def _family(name: str) -> str:
    return name.removesuffix("-shuffled").removesuffix("-other")


def _reach(value: float, end: float) -> float:
    """Length of an error bar; none where the end is unknown."""
    return abs(value - end) if math.isfinite(end) else 0.0
