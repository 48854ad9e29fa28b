"""Ray back end of a batch job: batches out to actors that hold a model each, outcomes back.

Ray Data maps the batches over a pool of actors, on one machine or on a cluster whose machines share
the folder of the input. Actors get places in the file, not its text, and read the lines themselves.
The driver alone writes the journal, as outcomes arrive, in any order.

An actor holds a JobAnswerer: the model in transformers, or an engine of vLLM of its own. Ray's own
stage for vLLM (ray.data.llm) is not used: see docs/batch.md.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from foveate.assets import EMBEDDED
from foveate.errors import FoveateError, InputError
from foveate.jobs.batch_input import LineFile, LinePlace
from foveate.jobs.batch_settings import BatchSettings
from foveate.jobs.engines import JobAnswerer, answerer_of
from foveate.jobs.outcome import Outcome
from foveate.models.load import first_line

__all__ = ["RayAnswers"]

# Outcomes come back a task at a time: few batches, so that a kill loses little; more than one, so
# that millions of batches do not become as many tasks.
BATCHES_PER_TASK = 8
LARGE_JOB = 1024


MakeAnswerer = Callable[[BatchSettings, LineFile], JobAnswerer]


class RayAnswers:
    """A back end for BatchJob.work.

    Args:
        settings: what answers.
        lines: the input, under that name on all machines.
        workers: actors, each with a model, and a GPU if the cluster has any.
        check_model: called with the facts of every model that answers.
        make: how an actor gets its answerer.

    Raises:
        InputError: Ray is not installed, or `workers` is below 1.
    """

    def __init__(
        self,
        settings: BatchSettings,
        lines: LineFile,
        *,
        workers: int,
        check_model: Callable[[Mapping[str, Any]], None],
        make: MakeAnswerer = answerer_of,
    ) -> None:
        if workers < 1:
            raise InputError(f"workers={workers} is below 1; use at least 1.")
        try:
            import ray.data  # noqa: F401
        except ImportError as error:
            raise InputError(
                "--backend ray needs the package ray; install it with pip install 'foveate[ray]'."
            ) from error
        model = Path(settings.model)
        if settings.model != EMBEDDED and model.exists():  # actors have other working folders
            settings = replace(settings, model=str(model.resolve()))
        self.settings = settings
        self.lines = lines.resolved()
        self.workers = workers
        self.check_model = check_model
        self.make = make

    def __call__(self, batches: Iterator[list[LinePlace]]) -> Iterator[list[Outcome]]:
        """What became of each batch, in any order.

        Raises:
            InputError: an actor's model cannot be loaded, is another one, or cannot go on.
        """
        import ray

        is_ours = not ray.is_initialized()
        if is_ours:
            try:
                ray.init(log_to_driver=False, logging_level=logging.ERROR)  # or joins RAY_ADDRESS
            except Exception as error:  # a busy machine, a cluster that is not there
                raise InputError(
                    f"Ray cannot start ({first_line(error)}); check RAY_ADDRESS and how busy the "
                    "machine is, and run the same again."
                ) from error
        try:
            for said in self._said(batches):
                if "stop" in said:
                    raise InputError(said["stop"])
                self.check_model(said["facts"])
                yield [Outcome(**outcome) for outcome in said["outcomes"]]
        finally:
            if is_ours:
                ray.shutdown()

    def _said(self, batches: Iterator[list[LinePlace]]) -> Iterator[dict[str, Any]]:
        import ray
        import ray.data

        ray.data.DataContext.get_current().enable_progress_bars = False  # there is one already
        rows = [
            {"batch": json.dumps([[place.number, place.offset] for place in batch])}
            for batch in batches
        ]
        per_task = BATCHES_PER_TASK if len(rows) > LARGE_JOB else 1
        made = ray.data.from_items(rows, override_num_blocks=-(-len(rows) // per_task)).map_batches(
            _Worker,
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=self.workers),
            num_gpus=self._gpus(ray.cluster_resources()),
            fn_constructor_args=(self.make, self.settings, self.lines),
        )
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        return (json.loads(row["said"]) for row in made.iter_rows())

    def _gpus(self, resources: Mapping[str, float]) -> int:
        if self.settings.device == "cpu" or not resources.get("GPU"):
            return 0
        spread = ("tensor_parallel_size", "pipeline_parallel_size")
        return math.prod(int(self.settings.options.get(name, 1)) for name in spread)


class _Worker:
    """An actor's part: JSON in and out, so that what travels does not depend on Arrow's types."""

    def __init__(self, make: MakeAnswerer, settings: BatchSettings, lines: LineFile) -> None:
        self.answerer: JobAnswerer | None = None
        try:
            self.answerer = make(settings, lines)
        except FoveateError as error:  # a raised one would come back inside Ray's traceback
            self.stop = str(error)

    def __call__(self, block: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
        return {"said": [json.dumps(self._said(text)) for text in block["batch"]]}

    def _said(self, text: str) -> dict[str, Any]:
        if self.answerer is None:
            return {"stop": self.stop}
        places = [LinePlace(number=number, offset=offset) for number, offset in json.loads(text)]
        try:
            outcomes = self.answerer.answer(places)
        except FoveateError as error:
            return {"stop": str(error)}
        return {
            "facts": dict(self.answerer.facts),
            "outcomes": [outcome.to_dict() for outcome in outcomes],
        }
