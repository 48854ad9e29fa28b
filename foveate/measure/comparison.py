"""A comparison as data: what to run, one row per method and budget, and what it was measured on."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from foveate.core.budget import Budget
from foveate.errors import InputError, MethodError
from foveate.measure.prefill import PrefillRatio
from foveate.measure.quality import Interval
from foveate.prune import METHODS, Method, method
from foveate.tasks.question import Question

FULL, BLIND = "full", "blind"
CONTROLS = ("random", "uniform")  # no method's number stands without them


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
