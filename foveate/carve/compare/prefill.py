"""Measured prefill time of compressed runs against the uncompressed one, interleaved."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import torch

from foveate.carve.engine.run import Run
from foveate.carve.method import Method
from foveate.measure.progress import Progress, no_progress
from foveate.measure.quality import Interval
from foveate.measure.timing import interleaved, ratio_of_medians
from foveate.models.anatomy import anatomy_of
from foveate.models.vlm import VisionLanguageModel


@dataclass(frozen=True, kw_only=True)
class PrefillRatio:
    """Time with compression over time without, medians of interleaved rounds.

    Args:
        decoder: of the language model over the prompt, selection and merging included.
        first_token: of everything until the first new token, vision encoder included.
        selection: scoring, choosing and merging, as a share of the compressed run's time until the
            first token.
    """

    decoder: Interval
    first_token: Interval
    selection: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PrefillRatio:
        return cls(
            decoder=Interval(**values["decoder"]),
            first_token=Interval(**values["first_token"]),
            selection=values["selection"],
        )


def time_prefill(
    vlm: VisionLanguageModel,
    inputs: dict[str, Any],
    methods: Sequence[Method],
    *,
    rounds: int = 7,
    progress: Progress = no_progress,
) -> list[PrefillRatio]:
    """Prefill the same batch in full and with each method, `rounds` times in alternating order.

    Returns:
        One ratio per method, against the run without any hook of ours.
    """
    stopwatch = _Stopwatch(vlm)
    first_token: dict[int, list[float]] = {}
    selection: dict[int, list[float]] = {}

    def measure(number: int, run: Run | None) -> float:
        # attach and detach stay outside: they happen once, not once per prompt.
        if run is not None:
            run.attach()
        try:
            started = stopwatch.now()
            vlm.answer(inputs, max_new_tokens=1)
            first_token.setdefault(number, []).append(stopwatch.now() - started)
            if run is not None and run.report is not None:
                selection.setdefault(number, []).append(run.report.select_seconds)
        finally:
            if run is not None:
                run.detach()
        return stopwatch.decoder_seconds

    runs: list[Run | None] = [None, *(Run(vlm.model, method) for method in methods)]
    contenders = {i: (lambda i=i, run=run: measure(i, run)) for i, run in enumerate(runs)}
    with stopwatch:
        decoder = interleaved(
            contenders,
            rounds=rounds,
            on_round=lambda done: progress("timing", done, rounds + 1),
        )
    return [
        PrefillRatio(
            decoder=ratio_of_medians(decoder[i], decoder[0]),
            first_token=ratio_of_medians(first_token[i][1:], first_token[0][1:]),
            selection=median(selection[i][1:]) / median(first_token[i][1:]),
        )
        for i in range(1, len(runs))
    ]


class _Stopwatch:
    """Times the decoder inside a whole forward pass, by two hooks on it."""

    def __init__(self, vlm: VisionLanguageModel) -> None:
        anatomy = anatomy_of(vlm.model, with_explicit_mask=False)
        self._decoder = anatomy.decoder
        self._device = vlm.device
        self._handles: list[Any] = []
        self._started = 0.0
        self.decoder_seconds = 0.0

    def now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def __enter__(self) -> _Stopwatch:
        self._handles = [
            self._decoder.register_forward_pre_hook(self._start),
            self._decoder.register_forward_hook(self._stop),
        ]
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _start(self, *_: object) -> None:
        self._started = self.now()

    def _stop(self, *_: object) -> None:
        self.decoder_seconds = self.now() - self._started
