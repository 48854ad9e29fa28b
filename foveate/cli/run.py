"""`foveate run`: a file of questions about images, answered in batches, compressed by a method."""

from __future__ import annotations

import json
import os
import sys
from contextlib import redirect_stdout
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foveate.assets import EMBEDDED, EMBEDDED_READS
from foveate.cli.compare_run import launched_on
from foveate.cli.console import err, out, print_json, progress_of
from foveate.cli.options import AsJson, Device, Keep, MaxNewTokens, Method, Profile
from foveate.errors import InputError

if TYPE_CHECKING:
    from foveate.carve.method import Method as CarveMethod
    from foveate.carve.profile import Profile as TunedProfile
    from foveate.jobs.batch_job import BatchJob
    from foveate.jobs.batch_settings import BatchSettings
    from foveate.measure.launched import Launched


class Engine(str, Enum):
    transformers = "transformers"
    vllm = "vllm"


class Backend(str, Enum):
    transformers = "transformers"
    ray = "ray"


BATCH_SIZES = {Engine.transformers: 8, Engine.vllm: 64}


def run(
    context: typer.Context,
    input_path: Annotated[
        Path,
        typer.Option(
            "--input",
            help='JSONL: {"image": "cat.png", "question": "what is it?"}; OpenAI batches; CSV, '
            "Parquet, .gz; - for stdin.",
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
    batch_size: Annotated[
        int | None,
        typer.Option(help="Lines per batch; may change on resuming. Default: 8, of vLLM 64."),
    ] = None,
    max_new_tokens: MaxNewTokens = 64,
    device: Device = "auto",
    dtype: Annotated[
        str, typer.Option(help="float32, float16, bfloat16 or auto (float32 on a CPU).")
    ] = "auto",
    engine: Annotated[
        Engine, typer.Option(help="What runs the model; vllm needs the extra vllm.")
    ] = Engine.transformers,
    engine_options: Annotated[
        str,
        typer.Option(help="Of --engine vllm, JSON by vLLM's names: '{\"max_model_len\": 4096}'."),
    ] = "{}",
    backend: Annotated[
        Backend,
        typer.Option(help="ray: Ray Data, on this machine or a cluster; needs the extra ray."),
    ] = Backend.transformers,
    workers: Annotated[int, typer.Option(help="Models at once; of --backend ray.")] = 1,
    allow_http: Annotated[
        bool,
        typer.Option("--allow-http", help="Fetch images of http(s) addresses, of the internet."),
    ] = False,
    errors: Annotated[
        Path | None,
        typer.Option(help="JSONL: lines without an answer; default: OUTPUT.errors.jsonl."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Answer every line of a file. The same command goes on where a stopped one was.

    Lines that cannot be answered go to the errors file with their reason, and the exit code is 0
    all the same, but 1 if it was every line; the summary says how many there are. Under
    `accelerate launch -m foveate run ...` the processes share the lines.
    """
    with err.status("Loading the libraries"):
        from foveate.cli.method import build_method, profile_instead
        from foveate.cli.model import check_fits_embedded
        from foveate.jobs.batch_files import JobFiles
        from foveate.jobs.batch_job import BatchJob
        from foveate.jobs.batch_settings import BatchSettings
        from foveate.jobs.input_spool import is_stdin, open_input

    chosen = profile_instead(context, profile, "method", "keep")
    on_vllm = engine is Engine.vllm
    if on_vllm:
        compressor = _method_of_vllm(method, keep, chosen)
    else:
        compressor = chosen.method if chosen else build_method(method, keep)
        check_fits_embedded(model, compressor)
    settings = BatchSettings(
        method=compressor,
        profile=chosen,
        model=model,
        batch_size=batch_size if batch_size is not None else BATCH_SIZES[engine],
        max_new_tokens=max_new_tokens,
        device=device,
        dtype=dtype,
        allow_http=allow_http,
        engine=engine.value,
        spelled=method,
        options=_options(engine_options),
    )
    if on_vllm:
        _prepare_vllm(settings)
    elif settings.options:
        raise InputError("--engine-options are of --engine vllm; leave them out.")
    files = JobFiles(
        output=output, errors=errors or output.with_name(f"{output.name}.errors.jsonl")
    )
    processes = launched_on(device)
    on_ray = backend is Backend.ray
    if on_vllm and processes.count > 1:
        raise InputError(
            "--engine vllm spreads over devices itself (tensor_parallel_size in --engine-options); "
            "leave out accelerate launch, or use --backend ray for several engines."
        )
    if on_ray and processes.count > 1:
        raise InputError("--backend ray has workers of its own; leave out accelerate launch.")
    if not on_ray and workers != 1:
        raise InputError(
            f"--workers {workers} is of --backend ray; for several processes of transformers use "
            "accelerate launch."
        )
    if is_stdin(input_path) and processes.count > 1:
        raise InputError("standard input is read by one process; save it to a file for several.")
    with err.status("Reading the input"):
        questions = open_input(input_path, files.parts)
    job = BatchJob(
        questions,
        files,
        settings.facts(),
        batch_size=settings.batch_size,
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
        files.forget_input()
    if processes.is_main and summary is not None:
        caution = EMBEDDED_READS if model == EMBEDDED else ""
        if as_json:
            print_json({**summary.to_dict(), "caution": caution})
        else:
            out.print(str(summary), soft_wrap=True, markup=False)
            if caution and not summary.all_failed:
                out.print(caution, style="yellow", soft_wrap=True, markup=False)
            for file in (output, files.errors)[: 2 if summary.errors else 1]:
                out.print(str(file), style="dim", soft_wrap=True, markup=False)
    processes.close()
    if processes.is_main and summary is not None and summary.all_failed:
        raise typer.Exit(1)


def _method_of_vllm(name: str, keep: str, profile: TunedProfile | None) -> CarveMethod:
    """The method as it acts in vLLM."""
    from foveate.core.budget import parse_budget
    from foveate.vllm.settings import method_of, profile_settings, to_settings

    if profile is not None:
        method = method_of(profile_settings(profile.method))
    else:
        method = method_of(to_settings(name, parse_budget(keep)))
    assert method is not None
    return method


def _options(text: str) -> dict[str, Any]:
    try:
        options = json.loads(text)
    except ValueError:
        options = None
    if not isinstance(options, dict):
        raise InputError(
            f"--engine-options {text!r} is no JSON object; write '{{\"max_model_len\": 4096}}'."
        )
    return options


def _prepare_vllm(settings: BatchSettings) -> None:
    """For this process and those it starts: vLLM's log stays off stdout, and is short."""
    if settings.device != "auto":
        raise InputError(
            f"--device {settings.device} is of --engine transformers; vLLM runs on what it was "
            "built for."
        )
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")


def _work(job: BatchJob, settings: BatchSettings, processes: Launched) -> None:
    """All that is left to answer, by all processes."""
    from foveate.jobs.engines import answerer_of
    from foveate.models.load import quiet_transformers

    first = job.begin() if processes.is_main else None
    processes.wait()
    with first or job.join() as journal:
        answerer = None
        if job.has_work():
            quiet_transformers()
            with err.status("Loading the model"):
                answerer = answerer_of(settings, job.questions.lines)
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

    answers = RayAnswers(
        settings, job.questions.lines, workers=workers, check_model=job.check_model
    )
    with job.begin() as journal:
        if job.has_work():
            # Ray tells what happens to its processes on stdout, which is for results.
            with redirect_stdout(sys.stderr), progress_of() as progress:
                job.work(answers, journal, progress)
