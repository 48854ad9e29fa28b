"""LineReader: lines of a batch job, by their places, as what an engine is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from foveate.errors import InputError
from foveate.jobs.batch_input import LineFile, LinePlace, read_row
from foveate.jobs.batch_row import message_turns, row_turns
from foveate.jobs.batch_settings import BatchSettings
from foveate.jobs.generation_settings import GenerationSettings
from foveate.jobs.http_images import HttpImages
from foveate.jobs.image_source import ImageSource
from foveate.jobs.openai_batch import asked_of, is_openai_row
from foveate.jobs.outcome import Outcome
from foveate.models.prompt import Turn

__all__ = ["LineReader", "LineRequest"]


@dataclass(frozen=True, kw_only=True)
class LineRequest:
    """What one line asks.

    Args:
        line: its number.
        turns: the conversation, its pictures opened.
        generation: how to answer.
    """

    line: int
    turns: list[Turn]
    generation: GenerationSettings

    @property
    def text(self) -> str:
        """All that is written in it."""
        parts = [part for turn in self.turns for part in turn["content"]]
        return "\n".join(part["text"] for part in parts if part["type"] == "text")


class LineReader:
    """Reads the lines of one input.

    Args:
        lines: the input.
        settings: of the job.
    """

    def __init__(self, lines: LineFile, settings: BatchSettings) -> None:
        self.lines = lines
        self.settings = settings
        http = HttpImages() if settings.allow_http else None
        self._images = ImageSource(lines.folder, http=http)
        self._greedy = GenerationSettings.of({"max_new_tokens": settings.max_new_tokens})

    def read(self, places: Sequence[LinePlace]) -> tuple[list[LineRequest], list[Outcome]]:
        """What the lines ask, and the errors of those that cannot be asked."""
        ready, refused = [], []
        for place, line in zip(places, self.lines.read(places), strict=True):
            try:
                ready.append(self._request(place.number, line))
            except InputError as error:
                refused.append(Outcome(line=place.number, error=str(error)))
        return ready, refused

    def _request(self, number: int, line: bytes) -> LineRequest:
        _, row = read_row(line)
        if not is_openai_row(row):
            turns = row_turns(row, self._images)
            return LineRequest(line=number, turns=turns, generation=self._greedy)
        messages, generation = asked_of(
            row, max_new_tokens=self.settings.max_new_tokens, names=self.settings.names
        )
        turns = message_turns(messages, self._images)
        return LineRequest(line=number, turns=turns, generation=generation)
