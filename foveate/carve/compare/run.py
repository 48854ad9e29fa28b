"""Run methods x budgets on one data set, with the full run, blind and the controls beside them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from foveate.carve.compare.answering import Answering, chunks_of
from foveate.carve.compare.comparison import Arm, CompareSettings, Comparison
from foveate.carve.compare.prefill import PrefillRatio, time_prefill
from foveate.carve.compare.rows import comparison_of
from foveate.errors import InputError
from foveate.measure.manifest import manifest, public_name
from foveate.measure.parts import Parts
from foveate.measure.progress import Progress, no_progress
from foveate.models.vlm import VisionLanguageModel
from foveate.tasks.hub import HUB, public_hub_name
from foveate.tasks.question import Question

__all__ = ["answer_share", "compare", "described"]


def compare(
    vlm: VisionLanguageModel,
    questions: Sequence[Question],
    settings: CompareSettings,
    *,
    data: str = "",
    progress: Progress = no_progress,
    parts: Parts | None = None,
) -> Comparison:
    """Answer all questions in full, blind, and with every method at every budget.

    Greedy decoding; all arms see the same batches. "blind" asks the same question without the
    image: what can be guessed. Prefill times are measured afterwards on the first batch,
    interleaved.

    Args:
        vlm: the model; uncompressed it runs with its own attention kernel (sdpa by default).
        questions: at least one, each about one image.
        settings: what to run.
        data: name of the data set for the manifest.
        progress: called after each step.
        parts: where answers are kept chunk by chunk; those of an earlier run, or of the shares of
            other processes, are taken from there. None keeps nothing.

    Raises:
        InputError: no questions, or parts that were made with other settings.
        BudgetError: a budget exceeds an image's tokens.
    """
    parts = Parts() if parts is None else Parts(folder=parts.folder)
    found, facts = _answer(vlm, questions, settings, data, parts, progress)
    times = _times(vlm, questions, settings, parts, facts, progress)
    commits = {part["commit"] for several in found.values() for part in several}
    seen = manifest(
        seed=settings.seed,
        **described(vlm, data),
        num_questions=len(questions),
        num_images=len({question.image_id for question in questions}),
        batch_size=settings.batch_size,
        max_new_tokens=settings.max_new_tokens,
        timing_rounds=settings.rounds,
        bootstrap_resamples=settings.resamples,
        interval="95 %, bootstrap over images",
        against=settings.against or None,
        **({} if settings.given is None else {"profile": str(settings.given)}),
    )
    if commits != {seen["commit"]}:
        seen["commits_of_answers"] = sorted(map(str, commits))
    return comparison_of(found, times, questions, settings, vlm.model.config, seen)


def answer_share(
    vlm: VisionLanguageModel,
    questions: Sequence[Question],
    settings: CompareSettings,
    *,
    data: str = "",
    progress: Progress = no_progress,
    parts: Parts,
) -> None:
    """Answer this process's share of the chunks and keep them; `compare` later reads them all.

    Raises:
        InputError: no questions, no folder, or parts that were made with other settings.
    """
    if parts.folder is None:
        raise InputError("a share of a comparison needs a folder to keep its parts in.")
    _answer(vlm, questions, settings, data, parts, progress)


def _answer(
    vlm: VisionLanguageModel,
    questions: Sequence[Question],
    settings: CompareSettings,
    data: str,
    parts: Parts,
    progress: Progress,
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, Any]]:
    """({arm's key: parts in order of the questions}, settings that every part depends on)."""
    if not questions:
        raise InputError("there are no questions to compare on; choose another data set.")
    now = manifest(seed=settings.seed)
    facts = {
        **described(vlm, data),
        "device": vlm.device.type,
        "batch_size": settings.batch_size,
        "max_new_tokens": settings.max_new_tokens,
        **{name: now[name] for name in ("foveate", "torch", "transformers")},
    }
    # Says at once that a folder belongs to another run, and what began it.
    parts.kept("manifest", facts, lambda: now)
    arms = settings.arms()
    pieces = parts.share(chunks_of(questions, settings.batch_size))
    batches = sum(-(-len(piece.questions) // settings.batch_size) for piece in pieces)
    done, total = 0, batches * len(arms)

    def step(count: int = 1) -> None:
        nonlocal done
        done += count
        progress("answering", done, total)

    answering = Answering(
        vlm,
        arms,
        batch_size=settings.batch_size,
        max_new_tokens=settings.max_new_tokens,
        on_step=step,
    )
    found: dict[str, list[dict[str, Any]]] = {arm.key: [] for arm in arms}
    for piece in pieces:
        wanted = {**facts, "questions": piece.digest()} if parts.folder else {}
        # What lies there comes first, so that a part of other settings is found before any work.
        kept = [arm for arm in arms if parts.has(piece.name(arm))]
        missing = [arm for arm in arms if arm not in kept]
        step(len(kept) * -(-len(piece.questions) // settings.batch_size))
        fresh: dict[str, dict[str, Any]] = {}

        def make(
            arm: Arm, piece: Any = piece, missing: Any = missing, fresh: Any = fresh
        ) -> dict[str, Any]:
            if not fresh:
                fresh.update(answering.answer(piece, missing))
            return {**fresh[arm.key], "commit": now["commit"]}

        for arm in [*kept, *missing]:
            own = {"arm": arm.key, "method": arm.method.to_dict() if arm.method else None}
            found[arm.key].append(
                parts.kept(piece.name(arm), {**wanted, **own}, partial(make, arm))
            )
    return found, facts


def _times(
    vlm: VisionLanguageModel,
    questions: Sequence[Question],
    settings: CompareSettings,
    parts: Parts,
    facts: Mapping[str, Any],
    progress: Progress,
) -> dict[str, PrefillRatio]:
    """{arm's key: measured prefill}; all arms are timed together or not at all."""
    arms = [arm for arm in settings.arms() if arm.method is not None]
    if not settings.rounds:
        return {}
    batch = questions[: settings.batch_size]

    def make() -> dict[str, Any]:
        inputs = vlm.inputs([q.question for q in batch], [q.image for q in batch])
        ratios = time_prefill(
            vlm,
            inputs,
            [arm.method for arm in arms if arm.method is not None],
            rounds=settings.rounds,
            progress=progress,
        )
        return {arm.key: ratio.to_dict() for arm, ratio in zip(arms, ratios, strict=True)}

    # Named by what is timed: other arms or rounds are another measurement, not a conflict.
    wanted = {**facts, "rounds": settings.rounds, "arms": [str(arm.method) for arm in arms]}
    mark = hashlib.sha256(json.dumps([wanted, [q.id for q in batch]]).encode()).hexdigest()[:8]
    held = parts.kept(f"timing-{mark}", wanted, make)
    return {key: PrefillRatio.from_dict(values) for key, values in held.items()}


def described(vlm: VisionLanguageModel, data: str) -> dict[str, Any]:
    """Model and data, without places on this machine."""
    return {
        "model": public_name(vlm.name),
        "weights": vlm.weights,
        "family": vlm.family.title,
        "dtype": vlm.dtype,
        "attention": vlm.attention,
        "data": public_hub_name(data) if data.startswith(HUB) else public_name(data),
    }
