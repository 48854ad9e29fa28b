"""What timings share: interleaved rounds behind a bar, and a ratio with its interval as a cell."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from rich.console import Console
from rich.progress import Progress

from foveate.measure.timing import interleaved

__all__ = ["ratio_cell", "timed"]

Name = TypeVar("Name")


def timed(
    what: str, contenders: Mapping[Name, Callable[[], float]], *, rounds: int
) -> dict[Name, list[float]]:
    """As `interleaved`, with a bar on stderr."""
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task(what, total=rounds + 1)
        return interleaved(
            contenders,
            rounds=rounds,
            on_round=lambda done: progress.update(task, completed=done),
        )


def ratio_cell(interval: Mapping[str, float], form: str = ".3f") -> str:
    """ "0.312 (0.300-0.324)"; % in `form` multiplies by 100 and writes the sign once."""
    percent = form.endswith("%")
    value, low, high = (
        f"{(100 if percent else 1) * interval[key]:{form.rstrip('%') + 'f' * percent}}"
        for key in ("value", "low", "high")
    )
    return f"{value}{' %' if percent else ''} ({low}-{high})"
