"""A comparison as a run that can be stopped, gone on with, and shared out over processes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from foveate.cli.compare_output import DONE
from foveate.cli.console import err, progress_of
from foveate.errors import InputError

if TYPE_CHECKING:
    from foveate.carve.compare.comparison import CompareSettings, Comparison
    from foveate.measure.launched import Launched
    from foveate.models.vlm import VisionLanguageModel
    from foveate.tasks.question import Question

PARTS = "compare-parts"


def parts_folder(output: Path, *, resume: bool, parts: str = PARTS, done: str = DONE) -> Path:
    """The folder of a run's parts, emptied if an earlier run there is finished and done with.

    Args:
        output: folder of the run's results.
        resume: go on with what there is.
        parts: name of the folder in it.
        done: name of the file that a finished run writes last.

    Raises:
        InputError: it holds an unfinished run, and `resume` does not say to go on with it.
    """
    folder, last = output / parts, output / done
    if resume or not (folder / "manifest.json").exists():
        return folder
    if not last.exists():
        raise InputError(
            f"{folder} holds an unfinished run; go on with --resume, choose another "
            "--output, or delete the folder."
        )
    try:
        shutil.rmtree(folder)
        last.unlink()  # a finished run is one whose parts and table are there
    except OSError as error:
        raise InputError(
            f"{folder} cannot be emptied ({error}); choose another --output."
        ) from error
    return folder


def run_comparison(
    vlm: VisionLanguageModel,
    questions: list[Question],
    settings: CompareSettings,
    data: str,
    *,
    folder: Path | None = None,
) -> Comparison:
    """`carve.compare.run.compare` with a progress bar; parts are kept in `folder`."""
    from foveate.carve.compare.run import compare
    from foveate.measure.parts import Parts

    with progress_of() as progress:
        return compare(
            vlm, questions, settings, data=data, progress=progress, parts=Parts(folder=folder)
        )


def run_share(
    vlm: VisionLanguageModel,
    questions: list[Question],
    settings: CompareSettings,
    data: str,
    *,
    folder: Path,
    share: tuple[int, int],
) -> None:
    """This process's chunks of the questions, kept in `folder`."""
    from foveate.carve.compare.run import answer_share
    from foveate.measure.parts import Parts

    parts = Parts(folder=folder, index=share[0], count=share[1])
    with progress_of() as progress:
        answer_share(vlm, questions, settings, data=data, progress=progress, parts=parts)


def launched_on(device: str) -> Launched:
    """The processes of `accelerate launch`; only the first one talks."""
    import torch

    from foveate.measure.launched import Launched

    cpu = device == "cpu" or (device == "auto" and not torch.cuda.is_available())
    processes = Launched(cpu=cpu)
    err.quiet = not processes.is_main
    return processes
