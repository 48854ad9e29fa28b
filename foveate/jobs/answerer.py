"""CarvedAnswerer: requests of a harness in, answers of a carved model out, and a tally of both."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from foveate.carve.answerer import Answerer, Said
from foveate.jobs.answerer_settings import AnswererSettings
from foveate.jobs.generation_settings import GenerationSettings
from foveate.jobs.tally import Asked, Tally
from foveate.models.continuations import Continuation, continuation_ids
from foveate.models.generation import Answer
from foveate.models.load import load_vlm
from foveate.models.picture_size import limit_pixels, mean_colour, pad_to_square
from foveate.models.prompt import Turn, num_images
from foveate.models.vlm import VisionLanguageModel

__all__ = ["CarvedAnswerer", "Request"]

# Called with the number of requests that have just been done.
OnDone = Callable[[int], None]


@dataclass(frozen=True, kw_only=True)
class Request:
    """One prompt of a harness.

    Args:
        label: names it in errors.
        turns: makes the conversation, see foveate.models.prompt.Turn. Called when its batch comes
            up, so that the images of a whole benchmark are never in memory at once.
        settings: how to answer.
        continuation: makes the text to score, for `CarvedAnswerer.score`.
    """

    label: str
    turns: Callable[[], Sequence[Turn]]
    settings: GenerationSettings = field(default_factory=GenerationSettings)
    continuation: Callable[[], str] = str


class CarvedAnswerer:
    """A model with a method, for the whole of an evaluation.

    Args:
        vlm: the model; the method is on it only while a batch is answered.
        settings: the method, the batch size and how prompts are made.

    Attributes:
        tally: what happened since the last `start_tally`.
        seconds: wall time of preparing and generating since then.
        num_tokens: tokens generated since then.

    Example:
        settings = AnswererSettings.of({"pretrained": "embedded", "method": "fastv",
                                        "keep_ratio": 0.5})
        answerer = CarvedAnswerer.load(settings)
        answers = answerer.answer(requests)
        print(answerer.tally)
    """

    def __init__(self, vlm: VisionLanguageModel, settings: AnswererSettings) -> None:
        self.vlm = vlm
        self.settings = settings
        self._answerer = Answerer(vlm, settings.method)
        self.start_tally()

    @classmethod
    def load(cls, settings: AnswererSettings) -> CarvedAnswerer:
        """Load the model that the settings name.

        Raises:
            InputError, UnsupportedModelError: as foveate.models.load.load_vlm; or pixel limits
                for a family that has none.
            FoveateError: as `foveate.attach`, where the method does not fit the model.
        """
        vlm = load_vlm(
            settings.pretrained,
            device=settings.device,
            dtype=settings.dtype,
            attention=settings.attn_implementation,
        )
        limits = {"min_pixels": settings.min_pixels, "max_pixels": settings.max_pixels}
        if any(limit is not None for limit in limits.values()):
            limit_pixels(vlm, **limits)
        return cls(vlm, settings)

    def start_tally(self) -> None:
        """Count from zero."""
        self.tally = Tally(method=self.settings.method)
        self.seconds = 0.0
        self.num_tokens = 0

    def answer(
        self, requests: Sequence[Request], progress: OnDone = lambda done: None
    ) -> list[Answer]:
        """One answer per request, in their order.

        Requests that share their settings are answered in batches, in the order given.

        Raises:
            NotFiredError: a request had images and nothing was compressed.
        """
        answers: dict[int, Answer] = {}
        for members in _by_settings(requests).values():
            for batch in self._batches(members):
                made = self._ask([requests[i] for i in batch], self._answers)
                answers.update(zip(batch, made, strict=True))
                progress(len(batch))
        return [answers[i] for i in range(len(requests))]

    def score(
        self, requests: Sequence[Request], progress: OnDone = lambda done: None
    ) -> list[Continuation]:
        """How likely each request's continuation is, in their order.

        Every request is prefilled and carved by itself. A method that chooses at random therefore
        chooses anew for each answer option of one question.

        Raises:
            NotFiredError: a request had images and nothing was compressed.
            InputError: a continuation without tokens.
        """
        scores: list[Continuation] = []
        for batch in self._batches(range(len(requests))):
            scores += self._ask([requests[i] for i in batch], self._scores)
            progress(len(batch))
        return scores

    def _batches(self, members: Sequence[int]) -> Iterator[Sequence[int]]:
        size = self.settings.batch_size
        return (members[start : start + size] for start in range(0, len(members), size))

    def _ask(self, requests: Sequence[Request], ask: Callable[..., Said[Any]]) -> list[Any]:
        """One of the two methods below on a batch, and what it did in the tally."""
        started = time.perf_counter()
        turns = [self._shaped(request.turns()) for request in requests]
        said = ask(requests, turns, self.vlm.chat_inputs(turns))
        self.seconds += time.perf_counter() - started
        asked = [
            Asked(label=request.label, num_images=num_images(conversation))
            for request, conversation in zip(requests, turns, strict=True)
        ]
        self.tally.add(asked, said.reports)
        self.num_tokens += sum(row.num_tokens for row in said.rows)
        return said.rows

    def _answers(self, requests: Sequence[Request], _: Any, inputs: Any) -> Said[Answer]:
        settings = requests[0].settings  # the batch's
        return self._answerer.answer(inputs, stop=settings.until, **dict(settings.arguments))

    def _scores(
        self, requests: Sequence[Request], turns: Sequence[list[Turn]], inputs: Any
    ) -> Said[Continuation]:
        ids = [
            continuation_ids(self.vlm, conversation, request.continuation())
            for request, conversation in zip(requests, turns, strict=True)
        ]
        return self._answerer.score(inputs, ids)

    def _shaped(self, turns: Sequence[Turn]) -> list[Turn]:
        """With the system turn, and pictures of the wanted shape."""
        system = self.settings.system_prompt
        shaped: list[Turn] = []
        if system:
            shaped.append({"role": "system", "content": [{"type": "text", "text": system}]})
        for turn in turns:
            parts = [self._shaped_part(part) for part in turn["content"]]
            shaped.append({"role": turn["role"], "content": parts})
        return shaped

    def _shaped_part(self, part: dict[str, Any]) -> dict[str, Any]:
        if part["type"] != "image" or self.settings.image_aspect_ratio != "pad":
            return part
        return {"type": "image", "image": pad_to_square(part["image"], mean_colour(self.vlm))}


def _by_settings(requests: Sequence[Request]) -> dict[GenerationSettings, list[int]]:
    groups: dict[GenerationSettings, list[int]] = {}
    for i, request in enumerate(requests):
        groups.setdefault(request.settings, []).append(i)
    return groups
