"""Where output goes: results to stdout, progress and notes to stderr."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from foveate.errors import InputError

if TYPE_CHECKING:
    from foveate.measure.progress import Progress as Told

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


def print_json(data: Any) -> None:
    """The only thing on stdout under --json."""
    print(json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False))


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A bar on stderr that disappears when done; silent where stderr is not a terminal."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        yield progress


@contextmanager
def progress_of() -> Iterator[Told]:
    """A progress callback that draws one bar for each step of the work."""
    with progress_bar() as bar:
        tasks: dict[str, Any] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done)

        yield show


def titled_table(title: str, **more: Any) -> Table:
    """An empty table for results, its title at the left."""
    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        **more,
    )


@contextmanager
def results_in(folder: Path) -> Iterator[None]:
    """A folder to write results to. Raises InputError where that is impossible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise InputError(f"results cannot be written to {str(folder)!r}: {error}.") from error


def show_results(
    data: dict[str, Any], tables: Sequence[Table], files: Sequence[Path], *, as_json: bool
) -> None:
    """Print JSON only, or the tables and the names of the files."""
    if as_json:
        print_json(data)
        return
    for table in tables:
        out.print(table)
    for file in files:
        out.print(str(file), style="dim", soft_wrap=True)


def percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f} %"
