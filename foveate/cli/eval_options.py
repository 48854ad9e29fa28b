"""Options that evaluations share, and how their texts are read."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foveate.cli.console import err, progress_of, show_results
from foveate.cli.eval_output import rich_table, split_list, write_result
from foveate.cli.eval_subjects import DEFAULT_HEAD, load_subjects, model_facts
from foveate.cli.options import AsJson, Device, random_seed
from foveate.errors import InputError
from foveate.files import open_regular

if TYPE_CHECKING:
    from foveate.measure.parts import Parts
    from foveate.measure.progress import Progress
    from foveate.vist.eval.arms import Subjects
    from foveate.vist.eval.result import EvalResult

Output = Annotated[Path, typer.Option("--output", help="Folder for the JSON, the page, the plot.")]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume", help="Keep each part in OUTPUT/TASK-parts as it is done, and go on there."
    ),
]
Seed = Annotated[int, typer.Option("--seed", help="Of every random choice.", callback=random_seed)]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What every evaluation is told besides its own options."""

    model: Annotated[
        str | None, typer.Option(help="Vist: folder or hub id; default: embedded.")
    ] = None
    base: Annotated[
        str | None, typer.Option(help="Its language model, if it lies elsewhere now.")
    ] = None
    cepe: Annotated[
        str | None, typer.Option(help="CEPE: folder or hub id; adds the arms cepe*.")
    ] = None
    head: Annotated[
        str | None,
        typer.Option(
            help="Text before everything, special tokens allowed; default: " + DEFAULT_HEAD
        ),
    ] = None
    arms: Annotated[
        str, typer.Option(help="Comma-separated; default: all. `none` always runs.")
    ] = ""
    output: Output = Path("out/eval")
    seed: Seed = 0
    device: Device = "auto"
    dtype: Annotated[
        str,
        typer.Option(
            help="Of the language model: float32, bfloat16, float16; auto: as it is loaded."
        ),
    ] = "auto"
    as_json: AsJson = False

    @property
    def chosen(self) -> dict[str, Any]:
        """The fields that the settings of every evaluation have."""
        return {"arms": split_list(self.arms), "seed": self.seed}

    def load(self) -> tuple[Subjects, dict[str, Any]]:
        """The models, and what a manifest says about them."""
        subjects = load_subjects(
            self.model,
            base=self.base,
            cepe=self.cepe,
            head=self.head,
            device=self.device,
            dtype=self.dtype,
        )
        return subjects, model_facts(subjects, self.model, self.cepe)

    def run(self, work: Callable[[Progress], EvalResult | None]) -> None:
        """See `run_and_write`."""
        run_and_write(work, self.output, self.as_json)


def evaluation(command: Callable[..., None]) -> Callable[..., None]:
    """A command of its own options and those of `Evaluation`, which it takes as one, last."""
    own = inspect.signature(command, eval_str=True)
    shared = inspect.signature(Evaluation, eval_str=True).parameters

    @wraps(command)
    def told(**given: Any) -> None:
        common = {name: given.pop(name) for name in shared}
        command(**given, common=Evaluation(**common))

    options = [p for name, p in own.parameters.items() if name != "common"]
    options = [p.replace(kind=p.KEYWORD_ONLY) for p in (*options, *shared.values())]
    told.__signature__ = own.replace(parameters=options)  # type: ignore[attr-defined]
    told.__annotations__ = {p.name: p.annotation for p in options}
    return told


def run_and_write(
    work: Callable[[Progress], EvalResult | None], output: Path, as_json: bool
) -> None:
    """Do the work, then write and print what it found; None is a share of it, kept elsewhere."""
    with progress_of() as progress:
        result = work(progress)
    if result is None:
        err.print("This share is done; run the same with --resume when all are, for the tables.")
        return
    files = write_result(result, output)
    tables = [rich_table(table) for table in result.tables]
    show_results(result.to_dict(), tables, files, as_json=as_json)


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
        return tuple(float(Fraction(part)) for part in split_list(text))
    except (ValueError, ZeroDivisionError) as error:
        raise InputError(f"{option} {text!r} is not a list of numbers.") from error


def parts_of(common: Evaluation, name: str, resume: bool, share: str) -> Parts:
    """Where the parts of a long evaluation are kept, and which of them this process does."""
    from foveate.measure.parts import Parts

    index, count = share_of(share)
    folder = common.output / f"{name}-parts" if resume or count > 1 else None
    return Parts(folder=folder, index=index, count=count)


def text_of(file: Path) -> str:
    try:
        with open_regular(file) as opened:
            return opened.read().decode("utf-8")
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(f"{str(file)!r} cannot be read as UTF-8 text: {error}.") from error
