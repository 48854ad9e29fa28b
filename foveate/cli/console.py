"""Where output goes: results to stdout, progress and notes to stderr."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from foveate.errors import InputError

if TYPE_CHECKING:
    from foveate.measure.progress import Progress as Told

LONGEST_WORD = 10  # of a table's text that is not folded, such as a method's name
SAY_EVERY = 10.0  # seconds, where there is no terminal to draw on


class _Stderr(Console):
    """What takes long shows a spinner on a terminal, and says so every ten seconds elsewhere."""

    def status(self, status: Any, **more: Any) -> Any:
        if self.is_terminal:
            return super().status(status, **more)
        return self._say_from_time_to_time(str(status))

    @contextmanager
    def _say_from_time_to_time(self, what: str) -> Iterator[None]:
        done, begun = threading.Event(), time.monotonic()

        def say() -> None:
            while not done.wait(SAY_EVERY):
                seconds = time.monotonic() - begun
                self.print(f"{what}: {seconds:.0f} s so far", markup=False, soft_wrap=True)

        thread = threading.Thread(target=say, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


class _Lines:
    """A progress bar's stand-in where there is no terminal: a line every ten seconds."""

    def __init__(self) -> None:
        self._tasks: list[dict[str, Any]] = []
        self._said = time.monotonic()

    def add_task(self, description: str, total: int) -> int:
        self._tasks.append({"description": description, "total": total, "completed": 0})
        return len(self._tasks) - 1

    def update(self, task: int, **what: Any) -> None:
        held = self._tasks[task]
        held.update(what)
        if time.monotonic() - self._said >= SAY_EVERY:
            self._said = time.monotonic()
            line = "{description}: {completed} of {total}".format(**held)
            err.print(line, markup=False, soft_wrap=True)


out = Console(highlight=False)
err = _Stderr(stderr=True, highlight=False)


def print_json(data: Any) -> None:
    """The only thing on stdout under --json; escaped where a terminal cannot show it."""
    text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(data, indent=2, allow_nan=False)
    print(text)


def show_anything() -> None:
    """Let stdout and stderr escape characters that their encoding lacks, instead of raising."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def drop_unwritten() -> None:
    """Forget what stdout could not take, which the interpreter would try to write once more."""
    with suppress(OSError, ValueError):
        handle = os.open(os.devnull, os.O_WRONLY)
        os.dup2(handle, sys.stdout.fileno())
        os.close(handle)


@contextmanager
def progress_bar() -> Iterator[Progress | _Lines]:
    """A bar on stderr that disappears when done; lines from time to time outside a terminal."""
    if not err.is_terminal:
        yield _Lines()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True) as progress:
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
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        **more,
    )


def print_table(table: Table) -> None:
    """A table, or a line for each of its cells where the terminal is too narrow for it."""
    if _least_width(table) <= out.width:
        out.print(table)
        return
    if table.title:
        out.print(table.title, style="bold")
    heads = [str(column.header) for column in table.columns]
    for row in zip(*(map(str, column.cells) for column in table.columns), strict=True):
        if any(row):  # an empty one parts groups
            out.print(row[0], style="bold", soft_wrap=True)
        for head, cell in list(zip(heads, row, strict=True))[1:]:
            if cell:
                out.print(f"  {head + ': ' if head else ''}{cell}", soft_wrap=True)
    if table.caption:
        out.print(table.caption)


def _least_width(table: Table) -> int:
    """Below it, cells would be cut off, or words of the first column fold more than once."""
    total = 0
    for number, column in enumerate(table.columns):
        cells = [Text.from_markup(str(cell)) for cell in (column.header, *column.cells)]
        if column.no_wrap:
            least = max(cell.cell_len for cell in cells)
        else:
            words = (len(word) for cell in cells for word in cell.plain.split())
            least = min(max(words, default=0), LONGEST_WORD)
        total += least + (number > 0)
    return total


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
        print_table(table)
    for file in files:
        out.print(str(file), style="dim", soft_wrap=True)


def percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f} %"
