"""Run methods x budgets on one data set, with the full run, blind and the controls beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from foveate.core.budget import Budget
from foveate.errors import InputError
from foveate.hf.attach import Run
from foveate.hf.load import VisionLanguageModel
from foveate.hf.prompt import generate_answers, prompt_inputs
from foveate.measure.comparison import BLIND, FULL, CompareSettings, Comparison, Row
from foveate.measure.cost import DecoderShape, prefill_cost
from foveate.measure.manifest import manifest, public_name
from foveate.measure.prefill import PrefillRatio, time_prefill
from foveate.measure.quality import accuracy, exact_match, paired_difference
from foveate.tasks.question import Question

# (what is being done, steps done, steps in all)
Progress = Callable[[str, int, int], None]


def compare(
    vlm: VisionLanguageModel,
    questions: Sequence[Question],
    settings: CompareSettings,
    *,
    data: str = "",
    progress: Progress = lambda what, done, total: None,
) -> Comparison:
    """Answer all questions in full, blind, and with every method at every budget.

    Greedy decoding; all arms see the same batches. "blind" asks the same question without the
    image: what can be guessed. Prefill times are measured afterwards on the first batch,
    interleaved.

    Args:
        vlm: the model; uncompressed it runs with its own attention kernel (sdpa by default).
        questions: at least one.
        settings: what to run.
        data: name of the data set for the manifest.
        progress: called after each step.

    Raises:
        InputError: no questions.
        BudgetError: a budget exceeds an image's tokens.
    """
    if not questions:
        raise InputError("there are no questions to compare on; choose another data set.")
    runs = [Run(vlm.model, arm) for arm in settings.arms()]
    said, first = _answer_all(vlm, questions, settings, runs, progress)
    times: list[PrefillRatio] | list[None] = [None] * len(runs)
    if settings.rounds:
        times = time_prefill(
            vlm, first, [run.method for run in runs], rounds=settings.rounds, progress=progress
        )
    images = [question.image_id for question in questions]
    correct = {
        key: [exact_match(a, q.answers) for a, q in zip(answers, questions, strict=True)]
        for key, answers in said.items()
    }

    draws: dict[str, int] = {"resamples": settings.resamples, "seed": settings.seed}

    def row(key: str | int, **saved: Any) -> Row:
        gap = None
        if key != FULL:
            gap = paired_difference(correct[key], correct[FULL], images, **draws)
        return Row(
            accuracy=accuracy(correct[key], images, **draws),
            difference=gap,
            by_kind=_by_kind(correct[key], questions),
            answers=tuple(said[key]),
            correct=tuple(correct[key]),
            **saved,
        )

    reports = runs[0].reports
    visual = sum(r.before for r in reports) / max(1, sum(len(r.images) for r in reports))
    rows = [
        row(FULL, method=FULL, kept_tokens=visual, kept_share=1.0, flops_ratio=1.0, kv_ratio=1.0)
    ]
    rows += [
        row(i, prefill=prefill, **_settings_of(run), **_savings(vlm, run))
        for i, (run, prefill) in enumerate(zip(runs, times, strict=True))
    ]
    rows.append(row(BLIND, method=BLIND, kept_tokens=0.0, kept_share=0.0))
    facts = manifest(
        seed=settings.seed,
        model=public_name(vlm.name),
        weights=vlm.weights,
        family=vlm.family.title,
        dtype=vlm.dtype,
        attention=vlm.attention,
        data=public_name(data),
        num_questions=len(questions),
        num_images=len(set(images)),
        batch_size=settings.batch_size,
        max_new_tokens=settings.max_new_tokens,
        timing_rounds=settings.rounds,
        bootstrap_resamples=settings.resamples,
        interval="95 %, bootstrap over images",
    )
    return Comparison(rows=tuple(rows), questions=tuple(questions), manifest=facts)


def _answer_all(
    vlm: VisionLanguageModel,
    questions: Sequence[Question],
    settings: CompareSettings,
    runs: Sequence[Run],
    progress: Progress,
) -> tuple[dict[str | int, list[str]], dict[str, Any]]:
    """({arm: answers}, inputs of the first batch). Arms are FULL, BLIND and the runs' numbers."""
    said: dict[str | int, list[str]] = {key: [] for key in (FULL, BLIND, *range(len(runs)))}
    starts = range(0, len(questions), settings.batch_size)
    total = len(starts) * len(said)
    first: dict[str, Any] = {}
    done = 0

    def ask(key: str | int, inputs: dict[str, Any]) -> None:
        nonlocal done
        said[key] += generate_answers(vlm, inputs, max_new_tokens=settings.max_new_tokens)
        done += 1
        progress("answering", done, total)

    for start in starts:
        batch = questions[start : start + settings.batch_size]
        texts = [question.question for question in batch]
        inputs = prompt_inputs(vlm, texts, [[question.image] for question in batch])
        first = first or inputs
        ask(FULL, inputs)
        ask(BLIND, prompt_inputs(vlm, texts, [[] for _ in batch]))
        for i, run in enumerate(runs):
            with run:  # the same Run throughout, so that random choices go on from batch to batch
                ask(i, inputs)
    return said, first


def _settings_of(run: Run) -> dict[str, Any]:
    """The fields of a Row that say what ran."""
    return {
        "method": run.method.name,
        "budget": str(run.method.budget),
        "prune_layer": run.prune_layer,
    }


def _savings(vlm: VisionLanguageModel, run: Run) -> dict[str, Any]:
    """The fields of a Row that say what was saved, over all batches."""
    reports = run.reports
    kept, before = sum(r.kept for r in reports), sum(r.before for r in reports)
    num_images = sum(len(r.images) for r in reports)
    held = sum(r.kv_bytes or 0 for r in reports)
    full = sum(r.kv_bytes_uncompressed or 0 for r in reports)
    return {
        "kept_tokens": kept / max(1, num_images),
        "kept_share": kept / max(1, before),
        "kv_ratio": held / full if full else None,
        "flops_ratio": _flops_ratio(vlm, run),
    }


def _flops_ratio(vlm: VisionLanguageModel, run: Run) -> float:
    """Prefill FLOPs against the full run's, for a mean prompt with one image."""
    reports = run.reports
    num_images = max(1, sum(len(r.images) for r in reports))
    visual = round(sum(r.before for r in reports) / num_images)
    keep = max(1, round(sum(r.kept for r in reports) / num_images))
    text = round(sum(r.length_before for r in reports) / len(reports)) - visual
    shape = DecoderShape.of(vlm.model.config)
    full = prefill_cost(shape, num_text=max(0, text), num_visual=visual)
    short = prefill_cost(
        shape,
        num_text=max(0, text),
        num_visual=visual,
        budget=Budget(keep_tokens=keep),
        prune_layer=run.prune_layer,
        early_cache=run.method.early_cache,
    )
    return short.flops / full.flops


def _by_kind(correct: Sequence[bool], questions: Sequence[Question]) -> dict[str, float]:
    kinds: dict[str, list[bool]] = {}
    for right, question in zip(correct, questions, strict=True):
        kinds.setdefault(question.kind, []).append(right)
    return {kind: sum(rights) / len(rights) for kind, rights in sorted(kinds.items())}
