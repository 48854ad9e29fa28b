"""BatchAnswerer: lines of a batch job in, an answer or a reason for each out."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from foveate import __version__
from foveate.assets import EMBEDDED
from foveate.carve.answerer import Answerer
from foveate.carve.method import Method
from foveate.carve.profile import Profile
from foveate.core.report import ImageReport, Report
from foveate.errors import BudgetError, InputError, WindowError
from foveate.jobs.batch_input import LinePlace, read_row, row_turns
from foveate.jobs.generation_settings import GenerationSettings
from foveate.jobs.tally import Asked, Tally
from foveate.measure.manifest import public_name
from foveate.models.load import load_vlm
from foveate.models.prompt import Turn, num_images
from foveate.models.vlm import VisionLanguageModel

__all__ = ["BatchAnswerer", "BatchSettings", "Outcome"]

# Random choices follow from the number of the line and of the image in it.
IMAGES_PER_LINE = 1000


@dataclass(frozen=True, kw_only=True)
class BatchSettings:
    """What answers a job's lines.

    Args:
        method: what to keep.
        model: a folder or hub id, or "embedded" for the model that comes with foveate.
        batch_size: lines that are answered at once.
        max_new_tokens: longest answer.
        device, dtype: as for foveate.models.load.load_vlm.
        profile: that the method is of; no other model than its own answers.

    Raises:
        InputError: a number below 1.
    """

    method: Method
    model: str = EMBEDDED
    batch_size: int = 8
    max_new_tokens: int = 64
    device: str = "auto"
    dtype: str = "auto"
    profile: Profile | None = None

    def __post_init__(self) -> None:
        for name in ("batch_size", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)} is below 1; use at least 1.")

    def facts(self) -> dict[str, Any]:
        """What answers depend on, JSON-ready; a job whose parts have other facts is another job."""
        return {
            "model": public_name(self.model),
            "method or keep": self.method.to_dict(),
            "max_new_tokens": self.max_new_tokens,
            "dtype": self.dtype,
        }

    def load(self) -> VisionLanguageModel:
        """The model. Raises as foveate.models.load.load_vlm."""
        return load_vlm(self.model, device=self.device, dtype=self.dtype)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a line.

    Args:
        line: its number.
        answer: the text; "" if there is an error.
        before, kept: visual tokens of its images.
        error: why there is no answer; "" if there is one.
    """

    line: int
    answer: str = ""
    before: int = 0
    kept: int = 0
    error: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class BatchAnswerer:
    """A model with a method, and the file whose lines it answers.

    A line that cannot be answered gets its reason and leaves the others of its batch alone.

    Args:
        vlm: the model; the method is on it only while a batch is answered.
        settings: how to answer.
        input_path: the file; image paths are relative to its folder.

    Attributes:
        facts: of the loaded model, as BatchSettings.facts.
    """

    def __init__(self, vlm: VisionLanguageModel, settings: BatchSettings, input_path: Path) -> None:
        if settings.profile is not None:
            settings.profile.check_model(str(vlm.model.config.model_type), vlm.weights)
        self.vlm = vlm
        self.settings = settings
        self.input_path = input_path
        self.facts = {
            "weights": vlm.weights,
            "loaded dtype": vlm.dtype,
            "foveate": __version__,
            **{name: importlib.metadata.version(name) for name in ("torch", "transformers")},
        }
        self._answerer = Answerer(vlm, settings.method)
        greedy = GenerationSettings.of({"max_new_tokens": settings.max_new_tokens})
        self._generation = dict(greedy.arguments)
        self._window: int | None = getattr(
            vlm.model.config.get_text_config(), "max_position_embeddings", None
        )
        # Random choices are numbered from the first image of a batch on, so whatever draws gets
        # every line by itself: else its answers would depend on the batch.
        self._alone = any(hasattr(member, "seed") for member in settings.method.members)

    def answers(self, batches: Iterable[Sequence[LinePlace]]) -> Iterator[list[Outcome]]:
        """What became of each batch, one after another."""
        return map(self.answer, batches)

    def answer(self, batch: Sequence[LinePlace]) -> list[Outcome]:
        """What became of each line, in order.

        Raises:
            NotFiredError: nothing was compressed although the budget asks for it.
            InputError: the batch does not fit in memory.
        """
        outcomes: dict[int, Outcome] = {}
        ready: list[tuple[int, list[Turn]]] = []
        with self.input_path.open("rb") as file:
            for place in batch:
                file.seek(place.offset)
                try:
                    _, row = read_row(file.readline())
                    ready.append((place.number, row_turns(row, self.input_path.parent)))
                except InputError as error:
                    outcomes[place.number] = Outcome(line=place.number, error=str(error))
        groups = [[line] for line in ready] if self._alone else [ready]
        try:
            made = [outcome for group in groups for outcome in self._group(group)]
        except torch.OutOfMemoryError as error:
            raise InputError(
                f"lines {batch[0].number} to {batch[-1].number} do not fit in memory; run the same "
                f"with a --batch-size below {self.settings.batch_size}, what is done is kept."
            ) from error
        outcomes |= {outcome.line: outcome for outcome in made}
        return [outcomes[place.number] for place in batch]

    def _group(self, group: Sequence[tuple[int, list[Turn]]]) -> list[Outcome]:
        """Together if that works, else one by one to find who spoils it."""
        if not group:
            return []
        try:
            return self._generate(group)
        except (InputError, BudgetError) as error:
            if len(group) == 1:
                return [Outcome(line=group[0][0], error=str(error))]
            return [outcome for line in group for outcome in self._group([line])]

    def _generate(self, group: Sequence[tuple[int, list[Turn]]]) -> list[Outcome]:
        inputs = self.vlm.chat_inputs([turns for _, turns in group])
        self._check_window(int(inputs["attention_mask"].sum(dim=1).max()))
        first_image = group[0][0] * IMAGES_PER_LINE
        said = self._answerer.answer(inputs, first_image=first_image, **self._generation)
        asked = [Asked(label=f"line {n}", num_images=num_images(turns)) for n, turns in group]
        Tally(method=self.settings.method).add(asked, said.reports)  # raises NotFiredError
        seen = [_images(said.reports, row) for row in range(len(group))]
        return [
            Outcome(
                line=number,
                answer=answer.text,
                before=sum(image.before for image in images),
                kept=sum(image.kept for image in images),
            )
            for (number, _), answer, images in zip(group, said.rows, seen, strict=True)
        ]

    def _check_window(self, longest: int) -> None:
        room = self.settings.max_new_tokens
        if self._window is not None and longest + room > self._window:
            raise WindowError(
                f"the prompt has {longest} tokens and the answer may have {room}, above the "
                f"model's window of {self._window}; ask for less, or lower --max-new-tokens."
            )


def _images(reports: Sequence[Report], row: int) -> list[ImageReport]:
    """Of a row of the last batch."""
    return [image for report in reports for image in report.images if image.sample == row]
