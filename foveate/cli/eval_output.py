"""What an evaluation prints and writes: tables, JSON, a page, a plot, single items."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.markup import escape
from rich.table import Table as RichTable

from foveate.cli.console import out, print_json, progress_bar
from foveate.errors import InputError

if TYPE_CHECKING:
    from foveate.measure.progress import Progress
    from foveate.vist.eval.result import EvalResult, Table


@contextmanager
def progress_of() -> Iterator[Progress]:
    """A progress callback that draws one bar for each step of the work."""
    with progress_bar() as bar:
        tasks: dict[str, Any] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done)

        yield show


def finish(result: EvalResult, folder: Path, *, as_json: bool) -> None:
    """Write the files, then print the tables and the files' names, or JSON only."""
    files = write_result(result, folder)
    if as_json:
        print_json(result.to_dict())
        return
    for table in result.tables:
        out.print(rich_table(table))
    for file in files:
        out.print(str(file), style="dim", soft_wrap=True)


def write_result(result: EvalResult, folder: Path) -> list[Path]:
    """TASK.json, TASK.md, TASK.png and TASK-items.jsonl in `folder`."""
    from foveate.draw.arm_plot import ArmCurve, draw_arms

    names = [f"{result.task}.json", f"{result.task}.md"]
    names += [f"{result.task}.png"] if result.curves else []
    names += [f"{result.task}-items.jsonl"] if result.samples else []
    files = [folder / name for name in names]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file in files:
            if file.suffix == ".json":
                file.write_text(json.dumps(result.to_dict(), indent=2, allow_nan=False) + "\n")
            elif file.suffix == ".md":
                file.write_text(result.markdown())
            elif file.suffix == ".jsonl":
                file.write_text("".join(json.dumps(row) + "\n" for row in result.samples))
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
    except OSError as error:
        raise InputError(f"results cannot be written to {str(folder)!r}: {error}.") from error
    return files


def split_list(text: str) -> tuple[str, ...]:
    """ "a, b" -> ("a", "b")."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def rich_table(table: Table) -> RichTable:
    """A table for the terminal."""
    made = RichTable(
        title=escape(table.title),
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for number, name in enumerate(table.columns):
        made.add_column(name, justify="left" if number == 0 else "right", no_wrap=number == 0)
    for row in table.rows:
        made.add_row(*(escape(cell) for cell in row))
    return made
