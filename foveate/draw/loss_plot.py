"""Losses over the steps of a training run, a panel for each objective, stages as bands."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from foveate.files import replacing

__all__ = ["draw_losses", "smoothed"]

# What a record holds besides losses.
NOT_LOSSES = ("step", "stage", "lr", "grad_norm", "seconds", "tokens", "epoch", "loss")
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7")


def draw_losses(records: Sequence[Mapping[str, Any]], *, title: str, path: str | Path) -> None:
    """Write the plot to `path` (PNG, SVG or PDF by its suffix).

    Args:
        records: one a step: "step", "stage", and losses by name.
    """
    from matplotlib.figure import Figure

    names = [
        name
        for name in dict.fromkeys(itertools.chain.from_iterable(records))
        if name not in NOT_LOSSES
    ] or ["loss"]
    figure = Figure(figsize=(7.2, 1.0 + 2.0 * len(names)), dpi=120, layout="constrained")
    panels = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
    stages = [
        (name, [r["step"] for r in group])
        for name, group in itertools.groupby(records, key=lambda r: r.get("stage", ""))
    ]
    for number, (name, axes) in enumerate(zip(names, panels, strict=True)):
        own = [record for record in records if name in record]
        steps, values = [r["step"] for r in own], [float(r[name]) for r in own]
        colour = COLOURS[number % len(COLOURS)]
        axes.plot(steps, values, color=colour, alpha=0.3, linewidth=0.8)
        axes.plot(steps, smoothed(values), color=colour, linewidth=1.6)
        for index, (_, span) in enumerate(stages):
            if index % 2:
                axes.axvspan(span[0] - 0.5, span[-1] + 0.5, color="#212529", alpha=0.05, lw=0)
        axes.set_ylabel(name)
        axes.grid(axis="y", alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    for name, span in stages:
        panels[0].annotate(
            name,
            ((span[0] + span[-1]) / 2, 1.0),
            xycoords=("data", "axes fraction"),
            ha="center",
            va="bottom",
            fontsize=8,
        )
    panels[-1].set_xlabel("step")
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    with replacing(Path(path)) as file:
        figure.savefig(file, format=Path(path).suffix[1:])


def smoothed(values: Sequence[float], memory: float = 0.95) -> list[float]:
    """Exponential mean whose start is not pulled towards zero."""
    total = weight = 0.0
    means = []
    for value in values:
        total = memory * total + (1 - memory) * value
        weight = memory * weight + (1 - memory)
        means.append(total / weight)
    return means
