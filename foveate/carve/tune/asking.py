"""The questions of a search put to a model: losses and costs of every setting, kept on the way."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import partial
from statistics import fmean
from typing import Any

from foveate.carve.compare.answering import Answering, Chunk
from foveate.carve.compare.comparison import FULL, Arm
from foveate.carve.compare.prefill import PrefillRatio, time_prefill
from foveate.carve.compare.savings import Savings
from foveate.carve.tune.likelihood import Likelihoods
from foveate.carve.tune.settings import By, TuneSettings
from foveate.core.decoder_shape import DecoderShape
from foveate.errors import InputError
from foveate.measure.parts import Parts
from foveate.measure.progress import Progress, no_progress
from foveate.measure.quality import exact_match
from foveate.models.vlm import VisionLanguageModel
from foveate.tasks.question import Question

__all__ = ["Asking", "losses_of"]


class Asking:
    """Asks units of questions of a model, in full and with settings.

    Args:
        vlm: the model.
        arms: of `TuneSettings.arms`.
        units: see `draw_units`.
        settings: how to ask.
        facts: what every part depends on.
        parts: where answers are kept; what lies there is not asked again.
        progress: of the timing.

    Attributes:
        calls: questions that the model was asked, once for each setting and for the full model;
            what an interrupted run had asked counts too.
    """

    def __init__(
        self,
        vlm: VisionLanguageModel,
        arms: Sequence[Arm],
        units: Sequence[Sequence[Question]],
        settings: TuneSettings,
        *,
        facts: Mapping[str, Any],
        parts: Parts,
        progress: Progress = no_progress,
    ) -> None:
        self.calls = 0
        self._asked = 0  # units
        self._vlm, self._units, self._settings = vlm, units, settings
        self._facts, self._parts, self._progress = dict(facts), parts, progress
        self._arms = {arm.key: arm for arm in arms}
        kind = Likelihoods if settings.by == "likelihood" else Answering
        self._answering = kind(
            vlm,
            arms,
            batch_size=settings.batch_size,
            max_new_tokens=settings.max_new_tokens,
        )
        self._savings: dict[str, list[dict[str, Any]]] = {key: [] for key in self._arms}
        self._full: list[bool] = []  # whether each answer of the full model is right, or not empty

    def ask(self, start: int, stop: int, names: Sequence[str]) -> dict[str, list[float]]:
        """Losses of units [start, stop) under the settings, against the full model."""
        units = self._units[start:stop]
        self._asked = max(self._asked, stop)
        chunk = Chunk(
            start=sum(map(len, self._units[:start])),
            questions=[question for unit in units for question in unit],
        )
        said = self._said(chunk, [FULL, *names])
        self.calls += len(chunk.questions) * len(said)
        self._note_full(said[FULL], chunk.questions)
        found = {}
        for name in names:
            losses = losses_of(said[FULL], said[name], chunk.questions, self._settings.by)
            each = iter(losses)
            found[name] = [fmean(next(each) for _ in unit) for unit in units]
        return found

    def costs(self, names: Sequence[str]) -> dict[str, float]:
        """Of the settings against the full model, by what the settings say.

        Raises:
            InputError: the full model has too little to lose, or no such cost.
        """
        self._check_full()
        if self._settings.cost != "prefill":
            return {name: self._cost(name) for name in names}
        times = self._times(names)
        return {name: times[name].decoder.value for name in names}

    def savings(self, name: str) -> dict[str, float]:
        """ "flops", "kv" and "tokens" against the full model, over what the setting was asked.

        "kv" is missing where the model has no cache.
        """
        saved = Savings.total(self._savings[name])
        return {
            "flops": saved.flops_ratio(DecoderShape.of(self._vlm.model.config)),
            "tokens": saved.average_tokens * saved.images / max(1, saved.before),
            **({} if saved.kv_ratio is None else {"kv": saved.kv_ratio}),
        }

    @property
    def full_accuracy(self) -> float | None:
        """Share of the questions asked that the full model answered right; None unless counted."""
        return fmean(self._full) if self._full and self._settings.by == "accuracy" else None

    def _note_full(self, said: Sequence[Any], questions: Sequence[Question]) -> None:
        """How right the full model's answers are, or whether they say anything at all."""
        if self._settings.by == "accuracy":
            self._full += [
                exact_match(answer, question.answers)
                for answer, question in zip(said, questions, strict=True)
            ]
        elif self._settings.by == "agreement":
            self._full += [bool(answer.strip()) for answer in said]

    def _check_full(self) -> None:
        """Where the full model gets nothing right, nothing can be lost, and all looks safe."""
        if not self._full or fmean(self._full) > self._settings.max_loss:
            return
        got = f"{sum(self._full)} of the first {len(self._full)} questions"
        if self._settings.by == "accuracy":
            raise InputError(
                f"the full model answers {got} right, so it has no more to lose than is allowed "
                "and every setting would look safe; look whether its answers and those of the data "
                "are of one form (foveate compare), raise --max-new-tokens, or use --by agreement."
            )
        raise InputError(
            f"the full model says something to {got} only, and silence agrees with silence; look "
            "at its answers (foveate compare), or raise --max-new-tokens."
        )

    def _cost(self, name: str) -> float:
        savings = self.savings(name)
        if self._settings.cost not in savings:
            raise InputError("the model keeps no KV cache, so none can be saved; use --cost flops.")
        return savings[self._settings.cost]

    def _said(self, chunk: Chunk, names: Sequence[str]) -> dict[str, list[Any]]:
        """What each of them says to each question, from its part or asked and kept now."""
        arms = [self._arms[name] for name in names]
        wanted = {**self._facts, "questions": chunk.digest()} if self._parts.folder else {}
        # What lies there comes first, the full model's answers before all others.
        kept = [arm for arm in arms if self._parts.has(chunk.name(arm))]
        missing = [arm for arm in arms if arm not in kept]
        fresh: dict[str, dict[str, Any]] = {}

        def make(arm: Arm) -> dict[str, Any]:
            if not fresh:
                fresh.update(self._answering.answer(chunk, missing))
            return fresh[arm.key]

        said = {}
        for arm in [*kept, *missing]:
            own = {"arm": arm.key, "method": arm.method.to_dict() if arm.method else None}
            part = self._parts.kept(chunk.name(arm), {**wanted, **own}, partial(make, arm))
            said[arm.key] = part["answers"]
            self._savings[arm.key].append(part["savings"])
            if arm.key == FULL and isinstance(self._answering, Likelihoods):
                self._answering.recall(chunk.start, part["answers"])
        return said

    def _times(self, names: Sequence[str]) -> dict[str, PrefillRatio]:
        """Measured on the first questions, interleaved; on none that is still to prove anything."""
        asked = [question for unit in self._units[: self._asked] for question in unit]
        questions = asked[: self._settings.batch_size]
        methods = [self._arms[name].method for name in names]
        rounds = self._settings.rounds

        def make() -> dict[str, Any]:
            inputs = self._vlm.inputs([q.question for q in questions], [q.image for q in questions])
            ratios = time_prefill(
                self._vlm,
                inputs,
                [method for method in methods if method is not None],
                rounds=rounds,
                progress=self._progress,
            )
            return {name: ratio.to_dict() for name, ratio in zip(names, ratios, strict=True)}

        wanted = {**self._facts, "rounds": rounds, "arms": [str(method) for method in methods]}
        mark = hashlib.sha256(json.dumps(wanted).encode()).hexdigest()[:8]
        held = self._parts.kept(f"timing-{mark}", wanted, make)
        self.calls += (len(names) + 1) * (rounds + 1) * len(questions)
        return {name: PrefillRatio.from_dict(values) for name, values in held.items()}


def losses_of(
    full: Sequence[Any], carved: Sequence[Any], questions: Sequence[Question], by: By
) -> list[float]:
    """Loss of each question, in [-1, 1]: what the full model has and the carved one has not.

    Args:
        full, carved: what both said; for "likelihood" as `Likelihoods` has it.
        questions: that were asked; looked at for "accuracy" alone.
        by: see `TuneSettings`.
    """
    if by == "likelihood":
        return [f["probability"] - c["probability"] for f, c in zip(full, carved, strict=True)]
    if by == "agreement":
        return [float(f != c) for f, c in zip(full, carved, strict=True)]
    return [
        float(exact_match(f, question.answers)) - float(exact_match(c, question.answers))
        for f, c, question in zip(full, carved, questions, strict=True)
    ]
