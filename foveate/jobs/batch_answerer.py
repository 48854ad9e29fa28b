"""BatchAnswerer: lines of a batch job in, an answer or a reason for each out, by transformers."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

import torch

from foveate import __version__
from foveate.carve.answerer import Answerer
from foveate.core.report import ImageReport, Report
from foveate.errors import BudgetError, InputError, WindowError
from foveate.jobs.batch_input import LineFile, LinePlace
from foveate.jobs.batch_settings import BatchSettings
from foveate.jobs.line_requests import LineReader, LineRequest
from foveate.jobs.outcome import Finish, Outcome
from foveate.jobs.tally import Asked, Tally
from foveate.models.generation import Answer, end_ids
from foveate.models.load import load_vlm
from foveate.models.prompt import num_images
from foveate.models.vlm import VisionLanguageModel

__all__ = ["BatchAnswerer"]

# Random choices follow from the number of the line and of the image in it.
IMAGES_PER_LINE = 1000


class BatchAnswerer:
    """A model with a method, and the file whose lines it answers.

    A line that cannot be answered gets its reason and leaves the others of its batch alone.

    Args:
        vlm: the model; the method is on it only while a batch is answered.
        settings: how to answer.
        lines: the input.

    Attributes:
        facts: of the loaded model, as BatchSettings.facts.
    """

    def __init__(self, vlm: VisionLanguageModel, settings: BatchSettings, lines: LineFile) -> None:
        if settings.profile is not None:
            settings.profile.check_model(str(vlm.model.config.model_type), vlm.weights)
        self.vlm = vlm
        self.settings = settings
        self.facts = {
            "weights": vlm.weights,
            "loaded dtype": vlm.dtype,
            "foveate": __version__,
            **{name: importlib.metadata.version(name) for name in ("torch", "transformers")},
        }
        self._answerer = Answerer(vlm, settings.method)
        self._reader = LineReader(lines, settings)
        self._window: int | None = getattr(
            vlm.model.config.get_text_config(), "max_position_embeddings", None
        )
        # Random choices are numbered from the first image of a batch on, so whatever draws gets
        # every line by itself: else its answers would depend on the batch.
        self._alone = any(hasattr(member, "seed") for member in settings.method.members)

    @classmethod
    def load(cls, settings: BatchSettings, lines: LineFile) -> BatchAnswerer:
        """With the model that the settings name. Raises as foveate.models.load.load_vlm."""
        vlm = load_vlm(settings.model, device=settings.device, dtype=settings.dtype)
        return cls(vlm, settings, lines)

    def answers(self, batches: Iterable[Sequence[LinePlace]]) -> Iterator[list[Outcome]]:
        """What became of each batch, one after another."""
        return map(self.answer, batches)

    def answer(self, batch: Sequence[LinePlace]) -> list[Outcome]:
        """What became of each line, in order.

        Raises:
            NotFiredError: nothing was compressed although the budget asks for it.
            InputError: the batch does not fit in memory.
        """
        ready, refused = self._reader.read(batch)
        # Lines that are answered alike go together; most jobs have one kind.
        alike = sorted(ready, key=lambda line: repr(line.generation))
        groups = [list(lines) for _, lines in groupby(alike, key=lambda line: line.generation)]
        if self._alone:
            groups = [[line] for line in ready]
        try:
            made = [outcome for group in groups for outcome in self._group(group)]
        except torch.OutOfMemoryError as error:
            raise InputError(
                f"lines {batch[0].number} to {batch[-1].number} do not fit in memory; run the same "
                f"with a --batch-size below {self.settings.batch_size}, what is done is kept."
            ) from error
        return sorted([*made, *refused], key=lambda outcome: outcome.line)

    def _group(self, group: Sequence[LineRequest]) -> list[Outcome]:
        """Together if that works, else one by one to find who spoils it."""
        try:
            return self._generate(group)
        except (InputError, BudgetError) as error:
            if len(group) == 1:
                return [Outcome(line=group[0].line, error=str(error))]
            return [outcome for line in group for outcome in self._group([line])]

    def _generate(self, group: Sequence[LineRequest]) -> list[Outcome]:
        generation = group[0].generation
        inputs = self.vlm.chat_inputs([line.turns for line in group])
        lengths: list[int] = inputs["attention_mask"].sum(dim=1).tolist()
        room = int(dict(generation.arguments)["max_new_tokens"])
        self._check_window(max(lengths), room)
        said = self._answerer.answer(
            inputs,
            first_image=group[0].line * IMAGES_PER_LINE,
            stop=generation.until,
            **dict(generation.arguments),
        )
        asked = [
            Asked(label=f"line {line.line}", num_images=num_images(line.turns)) for line in group
        ]
        Tally(method=self.settings.method).add(asked, said.reports)  # raises NotFiredError
        outcomes = []
        for row, (line, answer) in enumerate(zip(group, said.rows, strict=True)):
            images = _images(said.reports, row)
            outcomes.append(
                Outcome(
                    line=line.line,
                    answer=answer.text,
                    before=sum(image.before for image in images),
                    kept=sum(image.kept for image in images),
                    prompt_tokens=lengths[row],
                    answer_tokens=answer.num_tokens,
                    finish=self._finish(answer, generation.until, room),
                    unknown=self.vlm.unknown_words(line.text),
                )
            )
        return outcomes

    def _finish(self, answer: Answer, stop: Sequence[str], room: int) -> Finish:
        if answer.num_tokens < room:
            return "stop"
        if answer.ids[-1] in end_ids(self.vlm.model, self.vlm.tokenizer):
            return "stop"
        text = self.vlm.tokenizer.decode(answer.ids, skip_special_tokens=True) if stop else ""
        return "stop" if any(mark in text for mark in stop) else "length"

    def _check_window(self, longest: int, room: int) -> None:
        if self._window is not None and longest + room > self._window:
            raise WindowError(
                f"the prompt has {longest} tokens and the answer may have {room}, above the "
                f"model's window of {self._window}; ask for less, or lower --max-new-tokens."
            )


def _images(reports: Sequence[Report], row: int) -> list[ImageReport]:
    """Of a row of the last batch."""
    return [image for report in reports for image in report.images if image.sample == row]
