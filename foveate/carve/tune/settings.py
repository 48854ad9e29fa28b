"""What to tune for, among which settings, and which questions are drawn together."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from foveate.carve.compare.comparison import FULL, Arm
from foveate.carve.spec import parse_method, spec_name
from foveate.carve.tune.search import Rules
from foveate.core.budget import Budget
from foveate.errors import InputError, check_least
from foveate.tasks.question import Question

__all__ = ["DEFAULT_METHODS", "By", "Claim", "CostOf", "TuneSettings", "draw_units"]  # fmt: skip

By = Literal["accuracy", "agreement", "likelihood"]
Claim = Literal["population", "file"]
CostOf = Literal["flops", "kv", "tokens", "prefill"]

# Inside the language model, before it, and in both places; each the best of its kind in our tables.
DEFAULT_METHODS = (
    "foveacarve",
    "foveacarve(prune_layer=0)",
    "two-stage(first=divprune)",
    "divprune",
    "mmtok",
    "tokencarve",
)
DEFAULT_BUDGETS = (0.75, 0.5, 0.35, 0.25, 0.125)
# Of all units, within bounds: enough to tell settings apart, little enough to leave the proof most.
EXPLORE, FEWEST, MOST = 0.1, 16, 256
CLOSEST = 1e-9  # of a share to 0 and 1


@dataclass(frozen=True, kw_only=True)
class TuneSettings:
    """What to tune for.

    Args:
        max_loss: allowed loss, in (0, 1): 0.01 is one point of accuracy.
        confidence: with which the claim holds, in (0, 1).
        methods: descriptions that `foveate.carve.spec.parse_method` reads.
        budgets: each method is tried at each of them.
        cost: what the cheapest is told by, always against the full model: "flops" of the prefill,
            "kv" cache after it, visual "tokens" over all layers, or measured "prefill" time.
        by: what is lost. "accuracy": right answers. "agreement": answers that are the full model's,
            letter for letter. "likelihood": of the full model's answer, the geometric mean of its
            tokens' probabilities, less than the full model gives it.
        claim: "population": of images like these, each drawn independently, with one loss: the
            mean over its questions. "file": of these questions alone, each counted alike.
        per_image: at most so many questions of an image, drawn at random; 0 for all. Of claims
            about a population.
        explore: units (images, or questions of claims about the file) that only drop settings; 0
            for a tenth.
        max_new_tokens: longest answer.
        batch_size: questions per batch.
        rounds: of timing, for the cost "prefill".
        seed: of the drawing and of random methods.

    Raises:
        MethodError: an unknown method or setting.
        InputError: an empty list, or a number out of range.
    """

    max_loss: float
    confidence: float = 0.95
    methods: tuple[str, ...] = DEFAULT_METHODS
    budgets: tuple[Budget, ...] = tuple(Budget(keep_ratio=ratio) for ratio in DEFAULT_BUDGETS)
    cost: CostOf = "flops"
    by: By = "accuracy"
    claim: Claim = "population"
    per_image: int = 0
    explore: int = 0
    max_new_tokens: int = 16
    batch_size: int = 16
    rounds: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("max_loss", "confidence"):
            value = getattr(self, name)
            # Beyond, rounding would decide; and no data set is large enough.
            if not CLOSEST <= value <= 1 - CLOSEST:
                raise InputError(
                    f"{name}={value} is outside (0, 1), or within {CLOSEST:g} of its ends; write "
                    "1% or 0.01 for a hundredth."
                )
        for name, kind in (("cost", CostOf), ("by", By), ("claim", Claim)):
            if getattr(self, name) not in get_args(kind):
                raise InputError(
                    f"{name}={getattr(self, name)!r} is unknown; use one of "
                    f"{', '.join(get_args(kind))}."
                )
        check_least(
            InputError, self, batch_size=1, max_new_tokens=1, per_image=0, explore=0, rounds=1
        )
        if not self.methods or not self.budgets:
            raise InputError("no setting to try; give at least one of --methods and one of --keep.")
        self.arms()  # every description is read now, not after hours

    def arms(self) -> list[Arm]:
        """The full model, then every method at every budget."""
        names = dict.fromkeys(spec_name(name) for name in self.methods)
        return [
            Arm(name=FULL),
            *(
                Arm(
                    name=name,
                    budget=str(budget),
                    method=parse_method(name, budget, seed=self.seed),
                )
                for name in names
                for budget in self.budgets
            ),
        ]

    def rules(self, units: Sequence[Sequence[Question]]) -> Rules:
        """The same for a search among so many units."""
        count = len(units)
        explore = self.explore or min(max(FEWEST, round(EXPLORE * count)), MOST)
        size = sum(map(len, units)) / max(1, count)
        return Rules(
            max_loss=self.max_loss,
            level=round(1 - self.confidence, 12),
            num_units=count,
            explore=min(explore, count),
            step=max(1, round(self.batch_size / max(1.0, size))),
            is_whole=self.claim == "file",
        )


def draw_units(questions: Sequence[Question], settings: TuneSettings) -> list[list[Question]]:
    """The questions in the random order they are asked in, those of a unit together.

    A claim about a population draws images, each with all its questions (or `per_image` of them, at
    random), for questions about one image are not independent. A claim about the file draws single
    questions without replacement, which holds however they depend on each other.
    """
    generator = random.Random(settings.seed)
    if settings.claim == "file":
        return [[question] for question in generator.sample(list(questions), len(questions))]
    images: dict[str, list[Question]] = {}
    for question in questions:
        images.setdefault(question.image_id, []).append(question)
    units = []
    for image in generator.sample(sorted(images), len(images)):
        own = images[image]
        most = settings.per_image or len(own)
        units.append(generator.sample(own, min(most, len(own))))
    return units
