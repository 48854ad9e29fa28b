"""What an evaluation of far context found, as data: rows, tables, curves, single items."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from foveate.measure.quality import Interval


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows as people read them; cells are text."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        lines = [
            f"## {self.title}",
            "",
            f"| {' | '.join(self.columns)} |",
            f"|---|{'---:|' * (len(self.columns) - 1)}",
            *(f"| {' | '.join(row)} |" for row in self.rows),
            "",
        ]
        return "\n".join(lines)


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One arm over x, for the picture.

    Args:
        name: of the arm.
        x: numbers, or names of groups.
        y: an estimate at each.
    """

    name: str
    x: tuple[float | str, ...]
    y: tuple[Interval, ...]


@dataclass(frozen=True, kw_only=True)
class EvalResult:
    """One evaluation.

    Args:
        task: its name; files are named after it.
        heading: of its page.
        notes: what the numbers mean, one paragraph each.
        rows: all numbers, JSON-ready.
        tables: the same to read.
        curves: for the picture, with the names of its axes.
        samples: one record an item.
        manifest: what it was measured on.
    """

    task: str
    heading: str
    notes: tuple[str, ...]
    rows: tuple[dict[str, Any], ...]
    tables: tuple[Table, ...]
    manifest: dict[str, Any]
    curves: tuple[Curve, ...] = ()
    axes: tuple[str, str] = ("", "")
    log_x: bool = False
    samples: tuple[dict[str, Any], ...] = field(default=(), repr=False)

    def to_dict(self) -> dict[str, Any]:
        """All but the single items, JSON-ready."""
        return {"task": self.task, "manifest": self.manifest, "rows": list(self.rows)}

    def markdown(self) -> str:
        """A page with every table, the picture and the manifest."""
        parts = [f"# {self.heading}", ""]
        for note in self.notes:
            parts += [note, ""]
        parts += [table.markdown() for table in self.tables]
        if self.curves:
            parts += [f"![{self.task}]({self.task}.png)", ""]
        parts += ["```json", json.dumps(self.manifest, indent=2), "```", ""]
        return "\n".join(parts)


def json_ready(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with its intervals as dicts; an end that is unknown (infinite) is None."""
    return {
        key: {name: x if math.isfinite(x) else None for name, x in value.to_dict().items()}
        if isinstance(value, Interval)
        else value
        for key, value in row.items()
    }


def shown(interval: Interval | None, *, digits: int = 3, signed: bool = False) -> str:
    """ "0.123 [0.100, 0.150]"; "" for None, no bracket where the ends are unknown."""
    if interval is None:
        return ""
    form = f"{'+' if signed else ''}.{digits}f"
    if not math.isfinite(interval.low):
        return f"{interval.value:{form}}"
    return f"{interval.value:{form}} [{interval.low:{form}}, {interval.high:{form}}]"


def shown_percent(interval: Interval | None, *, signed: bool = False, digits: int = 1) -> str:
    """A share in percent."""
    if interval is None:
        return ""
    ends = (100 * x for x in (interval.value, interval.low, interval.high))
    value, low, high = ends
    return shown(Interval(value=value, low=low, high=high), digits=digits, signed=signed)


def shown_ratio(before: float, after: float) -> str:
    """Tokens before over entries after; "" where nothing is read."""
    return f"{before / after:.2f}x" if after else ""
