"""`foveate run`: a file of questions about images, answered in batches, compressed by a method."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from foveate.assets import EMBEDDED
from foveate.cli.compare_run import launched_on
from foveate.cli.console import err, out, print_json, progress_of
from foveate.cli.options import AsJson, Device, Keep, MaxNewTokens, Method, Profile
from foveate.errors import InputError

if TYPE_CHECKING:
    from foveate.jobs.batch_answerer import BatchSettings
    from foveate.jobs.batch_job import BatchJob
    from foveate.measure.launched import Launched


class Backend(str, Enum):
    transformers = "transformers"
    ray = "ray"


def run(
    context: typer.Context,
    input_path: Annotated[
        Path,
        typer.Option(
            "--input", help='JSONL: {"image": "cat.png", "question": "what is it?"}, see docs.'
        ),
    ],
    output: Annotated[
        Path, typer.Option(help="JSONL: the same lines with their answer and tokens.")
    ],
    model: Annotated[
        str, typer.Option(help="Local folder or hub id; default: the embedded model.")
    ] = EMBEDDED,
    method: Method = "tokencarve",
    keep: Keep = "25%",
    profile: Profile = None,
    batch_size: Annotated[int, typer.Option(help="Lines per batch; may change on resuming.")] = 8,
    max_new_tokens: MaxNewTokens = 64,
    device: Device = "auto",
    dtype: Annotated[
        str, typer.Option(help="float32, float16, bfloat16 or auto (float32 on a CPU).")
    ] = "auto",
    backend: Annotated[
        Backend,
        typer.Option(help="ray: Ray Data, on this machine or a cluster; needs the extra ray."),
    ] = Backend.transformers,
    workers: Annotated[int, typer.Option(help="Models at once; of --backend ray.")] = 1,
    errors: Annotated[
        Path | None,
        typer.Option(help="JSONL: lines without an answer; default: OUTPUT.errors.jsonl."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Answer every line of a file. The same command goes on where a stopped one was.

    Lines that cannot be answered go to the errors file with their reason, and the exit code is 0
    all the same; the summary says how many there are. Under `accelerate launch -m foveate run ...`
    the processes share the lines.
    """
    with err.status("Loading the libraries"):
        from foveate.cli.method import build_method, profile_instead
        from foveate.jobs.batch_answerer import BatchSettings
        from foveate.jobs.batch_files import JobFiles
        from foveate.jobs.batch_input import InputFile
        from foveate.jobs.batch_job import BatchJob

    chosen = profile_instead(context, profile, "method", "keep")
    settings = BatchSettings(
        method=chosen.method if chosen else build_method(method, keep),
        profile=chosen,
        model=model,
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
        device=device,
        dtype=dtype,
    )
    files = JobFiles(
        output=output, errors=errors or output.with_name(f"{output.name}.errors.jsonl")
    )
    processes = launched_on(device)
    on_ray = backend is Backend.ray
    if on_ray and processes.count > 1:
        raise InputError("--backend ray has workers of its own; leave out accelerate launch.")
    if not on_ray and workers != 1:
        raise InputError(
            f"--workers {workers} is of --backend ray; for several processes of transformers use "
            "accelerate launch."
        )
    with err.status("Reading the input"):
        questions = InputFile(input_path)
    job = BatchJob(
        questions,
        files,
        settings.facts(),
        batch_size=batch_size,
        index=processes.index,
        count=processes.count,
    )
    summary = job.finished()
    if summary is None:
        if on_ray:
            _work_on_ray(job, settings, workers)
        else:
            _work(job, settings, processes)
        if processes.is_main:
            summary = job.finish()
    elif processes.is_main:
        err.print(f"{output} was finished already; delete it to do it again.", soft_wrap=True)
    if processes.is_main and summary is not None:
        if as_json:
            print_json(summary.to_dict())
        else:
            out.print(str(summary), soft_wrap=True, markup=False)
            for file in (output, files.errors)[: 2 if summary.errors else 1]:
                out.print(str(file), style="dim", soft_wrap=True, markup=False)
    processes.close()


def _work(job: BatchJob, settings: BatchSettings, processes: Launched) -> None:
    """All that is left to answer, by all processes."""
    from foveate.jobs.batch_answerer import BatchAnswerer
    from foveate.models.load import quiet_transformers

    first = job.begin() if processes.is_main else None
    processes.wait()
    with first or job.join() as journal:
        answerer = None
        if job.has_work():
            quiet_transformers()
            with err.status("Loading the model"):
                vlm = settings.load()
            answerer = BatchAnswerer(vlm, settings, job.questions.path)
            if processes.is_main:
                job.check_model(answerer.facts)
        processes.wait()  # now the first one has written down what it loaded
        if answerer is not None:
            job.check_model(answerer.facts)
            with progress_of() as progress:
                job.work(answerer.answers, journal, progress)
    processes.wait()


def _work_on_ray(job: BatchJob, settings: BatchSettings, workers: int) -> None:
    """All that is left to answer, by actors."""
    from foveate.jobs.batch_ray import RayAnswers

    answers = RayAnswers(settings, job.questions.path, workers=workers, check_model=job.check_model)
    with job.begin() as journal:
        if job.has_work():
            # Ray tells what happens to its processes on stdout, which is for results.
            with redirect_stdout(sys.stderr), progress_of() as progress:
                job.work(answers, journal, progress)
