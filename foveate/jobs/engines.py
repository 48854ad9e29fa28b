"""What answers the lines of a batch job: the engines, by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from foveate.jobs.batch_input import LineFile, LinePlace
from foveate.jobs.batch_settings import BatchSettings
from foveate.jobs.outcome import Outcome

__all__ = ["JobAnswerer", "answerer_of"]


class JobAnswerer(Protocol):
    """A loaded model and the input whose lines it answers."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """Of the loaded model, JSON-ready: answers with other facts are another model's."""

    def answer(self, batch: Sequence[LinePlace]) -> list[Outcome]:
        """What became of each line, in order. A FoveateError ends the job."""

    def answers(self, batches: Iterable[Sequence[LinePlace]]) -> Iterator[list[Outcome]]:
        """The same for batches, one after another."""


def answerer_of(settings: BatchSettings, lines: LineFile) -> JobAnswerer:
    """Load the model that the settings name, in the engine that they name."""
    if settings.engine == "vllm":
        from foveate.jobs.vllm_answerer import VllmAnswerer

        return VllmAnswerer.load(settings, lines)
    from foveate.jobs.batch_answerer import BatchAnswerer

    return BatchAnswerer.load(settings, lines)
