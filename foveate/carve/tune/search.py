"""Which settings lose too much, and the cheapest one that does not: questions asked as needed.

First a part of the questions is asked of every setting, and what clearly loses too much is dropped.
Of the rest, one setting of each class of cost goes on, in order from the dearest to the cheapest,
and all other questions prove them, each in turn. What the first part decided is settled when the
second begins, so the proof need not pay for how many settings there were. No model is known here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from foveate.measure.betting import (
    evidence_above,
    evidence_below,
    least_draws,
    proven_in_order,
)
from foveate.measure.progress import Progress, no_progress

__all__ = ["Fate", "Found", "Rules", "Trial", "needed_units", "search"]

# Losses of units [start, stop) for each of the named settings.
Ask = Callable[[int, int, Sequence[str]], Mapping[str, Sequence[float]]]
Costs = Callable[[Sequence[str]], Mapping[str, float]]

TINY = 1e-12
Fate = Literal["chosen", "proven", "not proven", "set aside", "saves nothing", "loses too much"]


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What is asked of a search.

    Args:
        max_loss: allowed mean loss of a unit, in (0, 1).
        level: probability of a wrong claim, in (0, 1).
        num_units: that can be asked about.
        explore: units of the first part.
        step: units that are asked about between two looks.
        is_whole: the claim is about these units, drawn without replacement; otherwise about the
            population that they are independent draws of.
        classes: of cost; one setting of each goes on.
    """

    max_loss: float
    level: float
    num_units: int
    explore: int
    step: int
    is_whole: bool = False
    classes: int = 4


@dataclass(kw_only=True)
class Trial:
    """What became of one setting.

    Args:
        explored: losses of the first part's units, as far as they were asked.
        tested: of the second part's, which are the proof.
        cost: against the full model; None where it was dropped before costs were looked at.
        fate: how it ended.
    """

    explored: list[float] = field(default_factory=list)
    tested: list[float] = field(default_factory=list)
    cost: float | None = None
    fate: Fate = "loses too much"

    @property
    def losses(self) -> list[float]:
        """All of them."""
        return [*self.explored, *self.tested]


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a search has found.

    Args:
        chosen: the cheapest proven setting; None if none is.
        trials: of each setting.
        order: the settings that were to be proven, from the dearest to the cheapest.
        asked: units that were asked about.
    """

    chosen: str | None
    trials: Mapping[str, Trial]
    order: tuple[str, ...]
    asked: int


def search(
    names: Sequence[str],
    ask: Ask,
    costs: Costs,
    rules: Rules,
    *,
    progress: Progress = no_progress,
) -> Found:
    """Find the cheapest setting whose mean loss is proven to lie below `max_loss`.

    The probability of a wrong claim is at most `level`, whatever the settings and however many: the
    order is settled before the second part's units are drawn, evidence by betting holds at every
    look, and the claims are made in a fixed sequence (see `measure.betting`). Only the second part
    proves. Where the claim is about the units themselves, the first part's losses are known, and
    the rest has to stay below what they leave.

    Args:
        names: of the settings.
        ask: gives losses in [-1, 1]; called with growing ranges, and about a unit only once for a
            setting.
        costs: against the full model; called once, for what was not dropped.
        rules: what is asked.
    """
    trials = {name: Trial() for name in names}
    asked = _explore(trials, ask, rules, progress)
    alive = [name for name, trial in trials.items() if len(trial.explored) == asked]
    alive = [name for name in alive if not _loses_too_much(trials[name].explored, rules)]
    order = _order(trials, costs(alive) if alive else {}, rules)
    asked, proven = _prove(trials, order, ask, asked, rules, progress)
    for name in order[:proven]:
        trials[name].fate = "proven"
    chosen = order[proven - 1] if proven else None
    if chosen is not None:
        trials[chosen].fate = "chosen"
    return Found(chosen=chosen, trials=trials, order=order, asked=asked)


def needed_units(rules: Rules) -> int | None:
    """How many units it takes to prove anything, if nothing is ever lost; None where none do."""
    rest = rules.num_units - rules.explore
    if not rules.is_whole:
        least = least_draws(rules.max_loss, level=rules.level)
        return None if least is None else least + rules.explore
    limit = min(rules.max_loss * rules.num_units / max(1, rest), 1 - 1e-9)
    least = least_draws(limit, level=rules.level, population=max(1, rest))
    return None if least is None or rest < 1 else least + rules.explore


def _explore(trials: Mapping[str, Trial], ask: Ask, rules: Rules, progress: Progress) -> int:
    """Ask the first part's units; what loses too much is not asked on."""
    alive = list(trials)
    asked = 0
    while alive and asked < rules.explore:
        stop = min(asked + rules.step, rules.explore)
        for name, losses in ask(asked, stop, alive).items():
            trials[name].explored += losses
        asked = stop
        alive = [name for name in alive if not _loses_too_much(trials[name].explored, rules)]
        progress("Dropping what loses too much", asked, rules.explore)
    return asked


def _loses_too_much(losses: Sequence[float], rules: Rules) -> bool:
    """A guess that costs questions or savings where it is wrong, but never makes a claim wrong."""
    return evidence_above(losses, rules.max_loss) >= math.log(20)


def _order(
    trials: Mapping[str, Trial], costs: Mapping[str, float], rules: Rules
) -> tuple[str, ...]:
    """The settings to prove, dearest first: of each class of cost the one that lost least."""
    fit: list[str] = []
    for name, cost in costs.items():
        trial = trials[name]
        trial.cost = cost
        trial.fate = "set aside"
        if cost >= 1:
            trial.fate = "saves nothing"
        elif np.mean(trial.explored) < rules.max_loss:
            fit.append(name)
    if not fit:
        return ()
    low, high = (math.log(edge(costs[name] for name in fit)) for edge in (min, max))
    width = (high - low) / rules.classes or 1.0
    best: dict[int, str] = {}
    for name in sorted(fit, key=lambda name: _risk(trials[name])):
        place = min(int((math.log(costs[name]) - low) / width), rules.classes - 1)
        best.setdefault(place, name)
    order: list[str] = []  # cheapest first
    for name in sorted(best.values(), key=lambda name: costs[name]):
        # Dearer and yet worse than a cheaper one: it would only stand in the way.
        if not order or _risk(trials[name])[:2] <= _risk(trials[order[-1]])[:2]:
            order.append(name)
    order.reverse()
    for name in order:
        trials[name].fate = "not proven"
    return tuple(order)


def _risk(trial: Trial) -> tuple[float, float, float]:
    """Mean loss, then how often anything changed, then cost."""
    return (
        float(np.mean(trial.explored)),
        float(np.abs(trial.explored).mean()),
        trial.cost if trial.cost is not None else math.inf,
    )


def _prove(
    trials: Mapping[str, Trial],
    order: Sequence[str],
    ask: Ask,
    asked: int,
    rules: Rules,
    progress: Progress,
) -> tuple[int, int]:
    """(units asked about, how many of the order are proven)."""
    rest = rules.num_units - asked
    proofs = [_Proof(trials[name], rest, rules) for name in order]
    while True:
        proven = proven_in_order([proof.evidence for proof in proofs], level=rules.level)
        # Behind one that cannot be proven any more, nothing can.
        hope = next((n for n, p in enumerate(proofs) if p.is_hopeless), len(proofs))
        open_ = [name for name, p in zip(order[:hope], proofs, strict=False) if not p.is_proven]
        progress("Proving", asked - (rules.num_units - rest), rest)
        if not open_ or asked == rules.num_units:
            return asked, proven
        stop = min(asked + rules.step, rules.num_units)
        for name, losses in ask(asked, stop, open_).items():
            trials[name].tested += losses
        asked = stop


class _Proof:
    """The claim that one setting's mean loss lies below what is allowed."""

    def __init__(self, trial: Trial, rest: int, rules: Rules) -> None:
        self._trial, self._rest = trial, rest
        self._seen, self._evidence = -1, 0.0
        self._needed = math.log(1 / rules.level)
        self._limit = rules.max_loss
        self._population = None
        if rules.is_whole and rest:
            # Settled before the second part begins, so it may depend on the first.
            allowed = rules.max_loss * rules.num_units - sum(trial.explored)
            self._limit, self._population = allowed / rest, rest

    @property
    def evidence(self) -> float:
        if self._limit > 1 + TINY:  # even if all of the rest is lost; at 1 that is the limit itself
            return math.inf
        tested = self._trial.tested
        if self._seen != len(tested):
            self._seen = len(tested)
            self._evidence = evidence_below(tested, self._limit, population=self._population)
        return self._evidence

    @property
    def is_proven(self) -> bool:
        return self.evidence >= self._needed

    @property
    def is_hopeless(self) -> bool:
        """Whether it would not be proven if nothing were lost any more, or loses too much."""
        if self.is_proven:
            return False
        tested, missing = self._trial.tested, self._rest - len(self._trial.tested)
        if evidence_above(tested, self._limit, population=self._population) >= math.log(20):
            return True
        best = evidence_below([*tested, *[0.0] * missing], self._limit, population=self._population)
        return best < self._needed
