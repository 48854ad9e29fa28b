"""Tuning: the cheapest setting of a model that is proven to lose no more than allowed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from foveate.carve.compare.comparison import Arm
from foveate.carve.compare.run import described
from foveate.carve.method import Method
from foveate.carve.tune.asking import Asking
from foveate.carve.tune.search import Fate, Found, Rules, needed_units, search
from foveate.carve.tune.settings import TuneSettings, draw_units
from foveate.errors import InputError
from foveate.measure.betting import bounds_of_mean
from foveate.measure.manifest import manifest
from foveate.measure.parts import Parts
from foveate.measure.progress import Progress, no_progress
from foveate.measure.quality import Interval
from foveate.models.vlm import VisionLanguageModel
from foveate.tasks.question import NO_ANSWER, Question

__all__ = ["TuneRow", "Tuned", "check_questions", "tune"]

COSTS = {
    "flops": "prefill FLOPs",
    "kv": "KV cache",
    "tokens": "visual tokens",
    "prefill": "prefill time",
}


@dataclass(frozen=True, kw_only=True)
class TuneRow:
    """One setting.

    Args:
        name, budget: as described.
        method: the same built.
        fate: "chosen"; "proven" (safe, and dearer than the chosen one); "not proven"; "set aside"
            (another of its class of cost went on); "saves nothing"; "loses too much".
        loss: over all units that it was asked about, with bounds that hold at all times.
        asked: those units.
        costs: against the full model: "flops", "tokens", "kv", and "prefill" where measured.
    """

    name: str
    budget: str
    method: Method
    fate: Fate
    loss: Interval
    asked: int
    costs: Mapping[str, float]

    @property
    def key(self) -> str:
        return f"{self.name} {self.budget}"

    def to_dict(self) -> dict[str, Any]:
        return {
            "method": self.name,
            "budget": self.budget,
            "settings": self.method.to_dict(),
            "fate": self.fate,
            "loss": self.loss.to_dict(),
            "units": self.asked,
            "costs": dict(self.costs),
        }


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """Result of `tune`.

    Args:
        settings: what was asked for.
        rows: one for each setting, by cost.
        order: keys of those that were to be proven, dearest first.
        num_units: images, or questions of claims about the file, that there were.
        explored, asked: of them, for dropping settings, and in all.
        calls: questions that the model was asked, the full model's included.
        grid_calls: what asking every setting and the full model everything would have been.
        left_out: methods that the model cannot take, with the reason.
        full_accuracy: of the full model on what it was asked; None unless that is what is lost.
        manifest: what it was measured on.
    """

    settings: TuneSettings
    rows: tuple[TuneRow, ...]
    order: tuple[str, ...]
    num_units: int
    explored: int
    asked: int
    calls: int
    grid_calls: int
    left_out: Mapping[str, str] = field(default_factory=dict)
    full_accuracy: float | None = None
    manifest: dict[str, Any]

    @property
    def chosen(self) -> TuneRow | None:
        """The cheapest proven setting; None where nothing is safe."""
        return next((row for row in self.rows if row.fate == "chosen"), None)

    @property
    def unit(self) -> str:
        return "questions" if self.settings.claim == "file" else "images"

    @property
    def sentence(self) -> str:
        """What was found, in words that need no statistics."""
        settings, row = self.settings, self.chosen
        allowed = f"{100 * settings.max_loss:.3g}"
        where = "On these questions" if settings.claim == "file" else "On questions like these"
        if row is None:
            return (
                f"Nothing is safe at this loss: none of {len(self.rows)} settings could be shown "
                f"to lose less than {allowed} points of {_LOST[settings.by]} on {self.num_units:,} "
                f"{self.unit} at {100 * settings.confidence:.3g} % confidence. Allow more loss, "
                "give more images, or try larger budgets."
            )
        cost = row.costs[settings.cost]
        return (
            f"{where}, {row.method} loses less than {allowed} points of {_LOST[settings.by]}, "
            f"with {100 * settings.confidence:.3g} % confidence, and takes "
            f"{100 * cost:.0f} % of its {COSTS[settings.cost]}."
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        chosen = self.chosen
        return {
            "sentence": self.sentence,
            "chosen": chosen.to_dict() if chosen else None,
            "max_loss": self.settings.max_loss,
            "confidence": self.settings.confidence,
            "by": self.settings.by,
            "cost": self.settings.cost,
            "claim": self.settings.claim,
            self.unit: self.num_units,
            "explored": self.explored,
            "asked": self.asked,
            "calls": self.calls,
            "grid_calls": self.grid_calls,
            "order": list(self.order),
            "left_out": dict(self.left_out),
            "full_accuracy": self.full_accuracy,
            "rows": [row.to_dict() for row in self.rows],
            "manifest": self.manifest,
        }


_LOST = {
    "accuracy": "the full model's accuracy",
    "agreement": "agreement with the full model's answers",
    "likelihood": "likelihood of the full model's answers",
}


def tune(
    vlm: VisionLanguageModel,
    questions: Sequence[Question],
    settings: TuneSettings,
    *,
    data: str = "",
    left_out: Mapping[str, str] | None = None,
    progress: Progress = no_progress,
    parts: Parts | None = None,
) -> Tuned:
    """Find the cheapest setting that is proven to lose no more than allowed.

    See `search` for how, and `measure.betting` for why the claim holds whatever was asked when.

    Args:
        vlm: the model.
        questions: that may be asked.
        settings: what is wanted.
        data: name of the data set for the manifest.
        left_out: methods that were not even tried, and why; for the report.
        progress: called after each step.
        parts: where answers are kept; those of an interrupted run are taken from there.

    Raises:
        InputError: there are too few questions to prove anything, some have no answers where right
            ones are counted, the full model gets too few right to lose any, or parts are of other
            settings.
        FoveateError: a setting that the model cannot take.
    """
    check_questions(questions, settings)
    units = draw_units(questions, settings)
    rules = settings.rules(units)
    now = manifest(seed=settings.seed)
    facts = {
        **described(vlm, data),
        "device": vlm.device.type,
        **{name: getattr(settings, name) for name in _ASKED},
        **{name: now[name] for name in ("foveate", "torch", "transformers")},
    }
    kept = Parts() if parts is None else Parts(folder=parts.folder)
    # Says at once that a folder belongs to another run, and what began it.
    kept.kept("manifest", facts, lambda: now)
    arms = settings.arms()
    asking = Asking(vlm, arms, units, settings, facts=facts, parts=kept, progress=progress)
    tried = {arm.key: arm for arm in arms if arm.method is not None}
    found = search(list(tried), asking.ask, asking.costs, rules, progress=progress)
    return Tuned(
        settings=settings,
        rows=_rows(found, tried, asking, settings, rules),
        order=found.order,
        num_units=len(units),
        explored=rules.explore,
        asked=found.asked,
        calls=asking.calls,
        grid_calls=sum(map(len, units)) * len(arms),
        left_out=dict(left_out or {}),
        full_accuracy=asking.full_accuracy,
        manifest={
            **now,
            **described(vlm, data),
            "num_questions": sum(map(len, units)),
            "num_images": len({question.image_id for question in questions}),
            "explore": rules.explore,
            **{name: getattr(settings, name) for name in _ASKED},
        },
    )


# Settings that answers depend on; the allowed loss and the methods may change between runs.
_ASKED = ("by", "claim", "per_image", "max_new_tokens", "batch_size", "seed")


def check_questions(questions: Sequence[Question], settings: TuneSettings) -> None:
    """Raise InputError where the questions could not prove anything, before a model is loaded."""
    if not questions:
        raise InputError("there are no questions to tune on; choose another data set.")
    blank = sum(NO_ANSWER in question.answers for question in questions)
    if settings.by == "accuracy" and blank:
        raise InputError(
            f"{blank} of {len(questions)} questions have no answers, so right ones cannot be "
            "counted; add them, or use --by agreement, which takes the full model's own."
        )
    units = draw_units(questions, settings)
    needed = needed_units(settings.rules(units))
    if needed is None or needed > len(units):
        is_file = settings.claim == "file"
        other = "" if is_file else ", or ask about these questions alone with --claim file"
        raise InputError(
            f"{len(units)} {'questions' if is_file else 'images'} cannot prove a loss below "
            f"{100 * settings.max_loss:.3g} points at {100 * settings.confidence:.3g} % confidence "
            f"even if no answer changed"
            f"{'' if needed is None else f': that takes {needed}'}; give more, allow more loss"
            f"{other}."
        )


def _rows(
    found: Found,
    arms: Mapping[str, Arm],
    asking: Asking,
    settings: TuneSettings,
    rules: Rules,
) -> tuple[TuneRow, ...]:
    population = rules.num_units if rules.is_whole else None
    rows = []
    for key, trial in found.trials.items():
        arm = arms[key]
        assert arm.method is not None
        costs = asking.savings(key)
        if settings.cost == "prefill" and trial.cost is not None:
            costs["prefill"] = trial.cost
        rows.append(
            TuneRow(
                name=arm.name,
                budget=arm.budget,
                method=arm.method,
                fate=trial.fate,
                loss=bounds_of_mean(
                    trial.losses, confidence=settings.confidence, population=population
                ),
                asked=len(trial.losses),
                costs=costs,
            )
        )
    return tuple(sorted(rows, key=lambda row: row.costs.get(settings.cost, row.costs["flops"])))
