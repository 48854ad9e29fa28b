"""A model, a method, and the answers they give together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from foveate.carve.check.gate import check_trust
from foveate.carve.engine.image_cache import ImageCache, needs_the_tower
from foveate.carve.engine.run import Run
from foveate.carve.method import Method
from foveate.core.report import Report
from foveate.models.anatomy import anatomy_of
from foveate.models.continuations import Continuation, score_continuations
from foveate.models.generation import Answer
from foveate.models.vlm import VisionLanguageModel

__all__ = ["Answerer", "Said"]

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Said(Generic[T]):
    """What came of one batch.

    Args:
        rows: one entry for each row of the inputs.
        reports: of the prefills of exactly this batch; none without a method.
    """

    rows: list[T]
    reports: tuple[Report, ...]


class Answerer:
    """Answers batches under a method, which is on the model only meanwhile.

    Args:
        vlm: the model.
        method: None leaves the model alone; NoOp does too, and reports.
        images: shared by answerers of one model, so that an image that several of them see is
            encoded once; methods that act in the vision tower do without. None: no sharing.

    Attributes:
        run: the method's Run, with the plans of the last batch; None without a method.

    Raises:
        FoveateError: as `foveate.attach`, at once: the method is put on and taken off again.
    """

    def __init__(
        self,
        vlm: VisionLanguageModel,
        method: Method | None,
        *,
        images: ImageCache | None = None,
    ) -> None:
        self.vlm = vlm
        if method is not None:
            check_trust(anatomy_of(vlm.model, with_explicit_mask=False))
        self.run = Run(vlm.model, method) if method is not None else None
        self._images = None if method is not None and needs_the_tower(method) else images
        with self._on(None):
            pass

    def answer(
        self, inputs: dict[str, Any], *, first_image: int | None = None, **settings: Any
    ) -> Said[Answer]:
        """Answer every row.

        Args:
            inputs: what `vlm.inputs` or `vlm.chat_inputs` returned.
            first_image: number of the batch's first image, from which random choices follow; None
                goes on where the last batch ended.
            settings: as for `vlm.generate`.
        """
        with self._on(first_image):
            answers = self.vlm.generate(inputs, **settings)
        return self._said(answers)

    def score(
        self,
        inputs: dict[str, Any],
        continuations: Sequence[Sequence[int]],
        *,
        first_image: int | None = None,
    ) -> Said[Continuation]:
        """How likely each row's continuation is, see `score_continuations`.

        Args:
            first_image: as for `answer`.
        """
        with self._on(first_image):
            scores = score_continuations(self.vlm, inputs, continuations)
        return self._said(scores)

    @contextmanager
    def _on(self, first_image: int | None) -> Iterator[None]:
        with ExitStack() as stack:
            if self._images is not None:
                stack.enter_context(self._images.in_use())
            if self.run is not None:
                self.run.reports.clear()
                if first_image is not None:
                    self.run.next_serial = first_image
                stack.enter_context(self.run)
            yield

    def _said(self, rows: list[T]) -> Said[T]:
        return Said(rows=rows, reports=tuple(self.run.reports) if self.run is not None else ())
