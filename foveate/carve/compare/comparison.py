"""A comparison as data: what to run, one row per method and budget, and what it was measured on."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from foveate.carve.compare.prefill import PrefillRatio
from foveate.carve.method import Method
from foveate.carve.spec import parse_method, spec_name
from foveate.core.budget import Budget
from foveate.errors import InputError, check_least
from foveate.measure.quality import Interval
from foveate.tasks.question import Question

FULL, BLIND, GIVEN = "full", "blind", "profile"
CONTROLS = ("random", "uniform")  # no method's number stands without them


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to answer: in full, blind, or with a method at a budget.

    Args:
        name: FULL, BLIND, or a method as it was described.
        budget: as text; "" for full and blind.
        method: None for full and blind.
    """

    name: str
    budget: str = ""
    method: Method | None = None

    @property
    def key(self) -> str:
        """Unique in a comparison, e.g. "tokencarve 25%"."""
        return f"{self.name} {self.budget}".strip()


@dataclass(frozen=True, kw_only=True)
class CompareSettings:
    """What to compare and how.

    Args:
        methods: descriptions that `foveate.carve.spec.parse_method` reads: names, names with
            settings, stacks. The controls are added.
        budgets: each method runs at each of them.
        given: a setting that is built already, with its budget; its arm is called GIVEN.
        against: a method that every other one is compared with at the same budget; added if it is
            not among the methods. "" for none.
        max_new_tokens: longest answer.
        batch_size: questions per batch.
        rounds: interleaved timing rounds; 0 measures no time.
        seed: of random pruning and of the bootstrap.
        resamples: bootstrap draws.

    Raises:
        MethodError: an unknown method or setting.
        InputError: an empty list or a count out of range.
    """

    methods: tuple[str, ...] = ("tokencarve",)
    budgets: tuple[Budget, ...] = (Budget(keep_ratio=0.25),)
    given: Method | None = None
    against: str = ""
    max_new_tokens: int = 16
    batch_size: int = 16
    rounds: int = 7
    seed: int = 0
    resamples: int = 2000

    def __post_init__(self) -> None:
        if not self.budgets:
            raise InputError("no budget to compare at; give at least one, e.g. --keep 25%.")
        check_least(InputError, self, batch_size=1, max_new_tokens=1, rounds=0)
        if spec_name(self.against) in (FULL, BLIND, "noop"):
            raise InputError(
                f"against={self.against!r} has no budget; name a method (the difference to the "
                "full run is always there)."
            )
        self.arms()  # every description is read now, not after hours

    def arms(self) -> list[Arm]:
        """Full, every method at every budget with the controls, blind; no-op is the full run."""
        named = [*self.methods, *([self.against] if self.against else []), *CONTROLS]
        names = dict.fromkeys(spec_name(name) for name in named)
        built = [] if self.given is None else [self.given]
        return [
            Arm(name=FULL),
            *(Arm(name=GIVEN, budget=str(each.budget), method=each) for each in built),
            *(
                Arm(
                    name=name,
                    budget=str(budget),
                    method=parse_method(name, budget, seed=self.seed),
                )
                for name in names
                if name != "noop"
                for budget in self.budgets
            ),
            Arm(name=BLIND),
        ]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the comparison.

    Args:
        method: a method's name, "full" (no compression) or "blind" (no image at all).
        budget: as asked for; "" for full and blind.
        accuracy: share of exact matches.
        difference: accuracy minus that of the full run, paired; None for the full run itself.
        against: accuracy minus that of the reference method at the same budget, paired; None
            without one.
        kept_tokens: visual tokens of an image, mean over the layers from the first short one on.
        kept_share: of the visual tokens.
        average_tokens: mean over all decoder layers.
        last_tokens: in the last layer; fewer than kept_tokens with methods of several steps.
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
    against: Interval | None = None
    kept_tokens: float
    kept_share: float
    average_tokens: float = 0.0
    last_tokens: float = 0.0
    prefill: PrefillRatio | None = None
    flops_ratio: float | None = None
    kv_ratio: float | None = None
    prune_layer: int | None = None
    by_kind: dict[str, float] = field(default_factory=dict)
    answers: tuple[str, ...] = field(default=(), repr=False)
    correct: tuple[bool, ...] = field(default=(), repr=False)

    def to_dict(self) -> dict[str, Any]:
        """All but the single answers, JSON-ready."""
        values = asdict(self)
        del values["answers"], values["correct"]
        return values


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Result of `compare`: rows in the order full, methods by budget, blind."""

    rows: tuple[Row, ...]
    questions: tuple[Question, ...] = field(repr=False)
    manifest: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        return {"manifest": self.manifest, "rows": [row.to_dict() for row in self.rows]}

    def answers(self, *, in_full: bool = False) -> list[dict[str, Any]]:
        """The arms' names, then one record per question: which arms were right, in that order.

        Args:
            in_full: with what every arm said; for a look at single cases.
        """
        names = [f"{row.method} {row.budget}".strip() for row in self.rows]
        records: list[dict[str, Any]] = [{"arms": names}]
        for i, question in enumerate(self.questions):
            record: dict[str, Any] = {
                "id": question.id,
                "image": question.image_id,
                "kind": question.kind,
                "question": question.question,
                "accepted": list(question.answers),
                "correct": "".join("1" if row.correct[i] else "0" for row in self.rows),
            }
            if in_full:
                said = [row.answers[i] for row in self.rows]
                record["answers"] = dict(zip(names, said, strict=True))
            records.append(record)
        return records
