"""Methods x budgets on one data set: accuracy, what was saved, and the controls beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from foveate.core.budget import Budget
from foveate.errors import InputError, MethodError
from foveate.hf.attach import Run
from foveate.hf.load import VisionLanguageModel
from foveate.hf.prompt import generate_answers, prompt_inputs
from foveate.measure.cost import DecoderShape, prefill_cost
from foveate.measure.manifest import manifest, public_name
from foveate.measure.prefill import PrefillRatio, time_prefill
from foveate.measure.quality import Interval, accuracy, exact_match, paired_difference
from foveate.prune import METHODS, Method, method
from foveate.tasks.question import Question

FULL, BLIND = "full", "blind"
CONTROLS = ("random", "uniform")  # no method's number stands without them

# (what is being done, steps done, steps in all)
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class CompareSettings:
    """What to compare and how.

    Args:
        methods: names from METHODS; the controls are added.
        budgets: each method runs at each of them.
        max_new_tokens: longest answer.
        batch_size: questions per batch.
        rounds: interleaved timing rounds; 0 measures no time.
        seed: of random pruning and of the bootstrap.
        resamples: bootstrap draws.

    Raises:
        MethodError: an unknown method.
        InputError: an empty list or a count out of range.
    """

    methods: tuple[str, ...] = ("tokencarve",)
    budgets: tuple[Budget, ...] = (Budget(keep_ratio=0.25),)
    max_new_tokens: int = 16
    batch_size: int = 16
    rounds: int = 7
    seed: int = 0
    resamples: int = 2000

    def __post_init__(self) -> None:
        for name in self.methods:
            if name not in METHODS:
                raise MethodError(f"unknown method {name!r}; choose one of {', '.join(METHODS)}.")
        if not self.budgets:
            raise InputError("no budget to compare at; give at least one, e.g. --keep 25%.")
        for name, least in (("batch_size", 1), ("max_new_tokens", 1), ("rounds", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name}={getattr(self, name)} is below {least}; raise it.")

    def arms(self) -> list[Method]:
        """Every method at every budget, controls included, no-op left out (it is the full run)."""
        names = dict.fromkeys([*self.methods, *CONTROLS])
        return [
            self._method(name, budget)
            for name in names
            if name != "noop"
            for budget in self.budgets
        ]

    def _method(self, name: str, budget: Budget) -> Method:
        settings: dict[str, Any] = {
            "keep_tokens": budget.keep_tokens,
            "keep_ratio": budget.keep_ratio,
        }
        if any(entry.name == "seed" for entry in fields(METHODS[name])):
            settings["seed"] = self.seed
        return method(name, **settings)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the comparison.

    Args:
        method: a method's name, "full" (no compression) or "blind" (no image at all).
        budget: as asked for; "" for full and blind.
        accuracy: share of exact matches.
        difference: accuracy minus that of the full run, paired; None for the full run itself.
        kept_tokens: mean visual tokens of an image from prune_layer on.
        kept_share: of the visual tokens.
        prefill: measured time of the prefill against the full run; None if not measured.
        flops_ratio: the same by arithmetic.
        kv_ratio: bytes of the KV cache after prefill against the full run's.
        prune_layer: first layer that ran short.
        by_kind: accuracy for each kind of question.
        answers: what the model said, one entry per question.
        correct: whether it was right.
    """

    method: str
    budget: str = ""
    accuracy: Interval
    difference: Interval | None = None
    kept_tokens: float
    kept_share: float
    prefill: PrefillRatio | None = None
    flops_ratio: float | None = None
    kv_ratio: float | None = None
    prune_layer: int | None = None
    by_kind: dict[str, float] = field(default_factory=dict)
    answers: tuple[str, ...] = field(default=(), repr=False)
    correct: tuple[bool, ...] = field(default=(), repr=False)

    def to_dict(self) -> dict[str, Any]:
        """All but the single answers, JSON-ready."""
        return {
            "method": self.method,
            "budget": self.budget,
            "accuracy": self.accuracy.to_dict(),
            "difference": self.difference.to_dict() if self.difference else None,
            "kept_tokens": self.kept_tokens,
            "kept_share": self.kept_share,
            "prefill": self.prefill.to_dict() if self.prefill else None,
            "flops_ratio": self.flops_ratio,
            "kv_ratio": self.kv_ratio,
            "prune_layer": self.prune_layer,
            "by_kind": self.by_kind,
        }


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Result of `compare`: rows in the order full, methods by budget, blind."""

    rows: tuple[Row, ...]
    questions: tuple[Question, ...] = field(repr=False)
    manifest: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        return {"manifest": self.manifest, "rows": [row.to_dict() for row in self.rows]}

    def answers(self) -> list[dict[str, Any]]:
        """One record per question with every arm's answer, for a look at single cases."""
        return [
            {
                "id": question.id,
                "kind": question.kind,
                "question": question.question,
                "accepted": list(question.answers),
                "answers": {f"{r.method} {r.budget}".strip(): r.answers[i] for r in self.rows},
            }
            for i, question in enumerate(self.questions)
        ]


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
