"""What an evaluation prints and writes: tables, JSON, a page, a plot, single items."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table as RichTable

from foveate.cli.console import results_in, titled_table
from foveate.files import write_text

if TYPE_CHECKING:
    from foveate.vist.eval.result import EvalResult, Table


def write_result(result: EvalResult, folder: Path) -> list[Path]:
    """TASK.json, TASK.md, TASK.png and TASK-items.jsonl in `folder`."""
    from foveate.draw.arm_plot import ArmCurve, draw_arms

    names = [f"{result.task}.json", f"{result.task}.md"]
    names += [f"{result.task}.png"] if result.curves else []
    names += [f"{result.task}-items.jsonl"] if result.samples else []
    files = [folder / name for name in names]
    with results_in(folder):
        for file in files:
            if file.suffix == ".json":
                write_text(file, json.dumps(result.to_dict(), indent=2, allow_nan=False) + "\n")
            elif file.suffix == ".md":
                write_text(file, result.markdown())
            elif file.suffix == ".jsonl":
                write_text(file, "".join(json.dumps(row) + "\n" for row in result.samples))
            else:
                draw_arms(
                    [
                        ArmCurve(
                            name=curve.name,
                            x=curve.x,
                            y=tuple(point.value for point in curve.y),
                            low=tuple(point.low for point in curve.y),
                            high=tuple(point.high for point in curve.y),
                        )
                        for curve in result.curves
                    ],
                    title=result.heading,
                    x_label=result.axes[0],
                    y_label=result.axes[1],
                    log_x=result.log_x,
                    path=file,
                )
    return files


def split_list(text: str) -> tuple[str, ...]:
    """ "a, b" -> ("a", "b")."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def rich_table(table: Table) -> RichTable:
    """A table for the terminal."""
    made = titled_table(escape(table.title))
    for number, name in enumerate(table.columns):
        made.add_column(name, justify="left" if number == 0 else "right", no_wrap=number == 0)
    for row in table.rows:
        made.add_row(*(escape(cell) for cell in row))
    return made
