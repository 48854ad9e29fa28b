"""Options that evaluations share, and how their texts are read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from foveate.cli.console import err
from foveate.cli.eval_output import finish, progress_of, split_list
from foveate.cli.eval_readers import DEFAULT_HEAD
from foveate.errors import InputError

if TYPE_CHECKING:
    from foveate.measure.progress import Progress
    from foveate.vist.eval.result import EvalResult

Model = Annotated[
    str | None, typer.Option("--model", help="Vist: folder or hub id; default: embedded.")
]
Base = Annotated[
    str | None, typer.Option("--base", help="Its language model, if it lies elsewhere now.")
]
Cepe = Annotated[
    str | None, typer.Option("--cepe", help="CEPE: folder or hub id; adds the arms cepe*.")
]
Head = Annotated[
    str | None,
    typer.Option(
        "--head", help="Text before everything, special tokens allowed; default: " + DEFAULT_HEAD
    ),
]
Arms = Annotated[
    str, typer.Option("--arms", help="Comma-separated; default: all. `none` always runs.")
]
Output = Annotated[Path, typer.Option("--output", help="Folder for the JSON, the page, the plot.")]
Seed = Annotated[int, typer.Option("--seed", help="Of every random choice.")]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda, mps or auto.")]
Dtype = Annotated[
    str,
    typer.Option(
        "--dtype", help="Of the language model: float32, bfloat16, float16; auto: as it is loaded."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON only.")]


def run_and_write(
    work: Callable[[Progress], EvalResult | None], output: Path, as_json: bool
) -> None:
    """Do the work, then write and print what it found; None is a share of it, kept elsewhere."""
    with progress_of() as progress:
        result = work(progress)
    if result is None:
        err.print("This share is done; run the same with --resume when all are, for the tables.")
        return
    finish(result, output, as_json=as_json)


def numbers(text: str, option: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in split_list(text))
    except ValueError as error:
        raise InputError(f"{option} {text!r} is not a list of whole numbers.") from error


def share_of(text: str) -> tuple[int, int]:
    """ "0/2" -> (0, 2): the first of two processes."""
    index, slash, count = text.partition("/")
    if not (slash and index.isdigit() and count.isdigit()):
        raise InputError(f"--share {text!r} is no share; write 0/2, 1/2.")
    return int(index), int(count)


def shares(text: str, option: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in split_list(text))
    except ValueError as error:
        raise InputError(f"{option} {text!r} is not a list of numbers.") from error


def text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{str(file)!r} cannot be read as UTF-8 text: {error}.") from error
