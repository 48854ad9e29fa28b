"""The search on made-up losses: what it asks, what it claims, and how seldom that is wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from foveate.carve.tune.search import Found, Rules, needed_units, search

COSTS = {"dear": 0.8, "middle": 0.5, "cheap": 0.3, "hopeless": 0.1, "useless": 1.2}


def rules(**changes: Any) -> Rules:
    values: dict[str, Any] = {
        "max_loss": 0.05,
        "level": 0.05,
        "num_units": 400,
        "explore": 40,
        "step": 8,
    }
    return Rules(**{**values, **changes})


class World:
    """Losses of each setting, [units]; counts what is asked."""

    def __init__(self, losses: Mapping[str, npt.NDArray[np.float64]]) -> None:
        self.losses = losses
        self.asked: dict[str, list[int]] = {name: [] for name in losses}

    def ask(self, start: int, stop: int, names: Sequence[str]) -> dict[str, list[float]]:
        for name in names:
            self.asked[name] += range(start, stop)
        return {name: self.losses[name][start:stop].tolist() for name in names}

    def search(self, wanted: Rules) -> Found:
        return search(
            list(self.losses), self.ask, lambda names: {n: COSTS[n] for n in names}, wanted
        )


def lost(share: float, seed: int, count: int = 400) -> npt.NDArray[np.float64]:
    drawn = np.random.default_rng(seed).random(count) < share
    return drawn.astype(np.float64)


def world(**shares: float) -> World:
    return World({name: lost(share, seed) for seed, (name, share) in enumerate(shares.items())})


def test_the_cheapest_safe_setting_is_chosen() -> None:
    made = world(dear=0.0, middle=0.0, cheap=0.0, hopeless=0.6, useless=0.0)
    found = made.search(rules())
    assert found.chosen == "cheap"
    assert found.order == ("dear", "middle", "cheap")
    fates = {name: trial.fate for name, trial in found.trials.items()}
    assert fates == {
        "dear": "proven",
        "middle": "proven",
        "cheap": "chosen",
        "hopeless": "loses too much",
        "useless": "saves nothing",
    }


def test_no_unit_is_asked_twice_and_the_hopeless_are_asked_little() -> None:
    made = world(dear=0.0, middle=0.0, cheap=0.0, hopeless=0.6, useless=0.0)
    found = made.search(rules())
    for name, units in made.asked.items():
        assert units == list(range(len(units))), name
        assert found.trials[name].losses == made.losses[name][: len(units)].tolist()
    assert len(made.asked["hopeless"]) <= 24
    assert len(made.asked["useless"]) == 40
    assert found.asked < 400  # done before all were asked


def test_nothing_is_safe() -> None:
    found = world(dear=0.3, middle=0.4).search(rules())
    assert found.chosen is None
    assert found.order == ()
    # Lucky at first, then dropped.
    late = np.concatenate([np.zeros(40), np.ones(360)])
    made = World({"dear": late, "cheap": late})
    found = made.search(rules())
    assert found.chosen is None
    assert found.trials["cheap"].fate == "not proven"
    assert found.asked <= 64


def test_what_is_behind_an_unproven_one_is_not_claimed() -> None:
    """The order binds: the cheap one is perfect, the dear one before it fails."""
    late = np.concatenate([np.zeros(40), lost(0.3, 1, 360)])
    found = World({"dear": late, "cheap": np.zeros(400)}).search(rules())
    assert found.order == ("dear", "cheap")
    assert found.chosen is None


def test_a_dearer_setting_that_did_worse_is_no_obstacle() -> None:
    losses = lost(0.0, 0)
    losses[3] = 1.0
    found = World({"dear": losses, "cheap": np.zeros(400)}).search(rules())
    assert found.order == ("cheap",)
    assert found.chosen == "cheap"
    assert found.trials["dear"].fate == "set aside"


def test_a_whole_file_is_known_in_the_end() -> None:
    """19 of 400 lost is below 5 %, and no claim about a population could say so."""
    losses = np.zeros(400)
    losses[np.random.default_rng(0).permutation(np.arange(60, 400))[:19]] = 1.0
    assert World({"cheap": losses}).search(rules(is_whole=True)).chosen == "cheap"
    assert World({"cheap": losses}).search(rules()).chosen is None


def test_a_file_that_loses_exactly_what_is_allowed_is_not_safe() -> None:
    """All but the 16 questions of the first part: 84 of 100."""
    losses = np.concatenate([np.zeros(16), np.ones(84)])
    wanted = rules(is_whole=True, num_units=100, explore=16, max_loss=0.84)
    assert World({"cheap": losses}).search(wanted).chosen is None
    losses[-1] = 0.0
    assert World({"cheap": losses}).search(wanted).chosen == "cheap"


@pytest.mark.parametrize("is_whole", [False, True])
def test_claims_are_seldom_wrong(is_whole: bool) -> None:
    """Every setting loses just as much as is not allowed; the control takes the best of a look."""
    wrong = naive = 0
    generator = np.random.default_rng(0)
    names = list(COSTS)[:4]
    for _ in range(100):
        if is_whole:
            base = np.zeros(400)
            base[:20] = 1.0
            losses = {name: generator.permutation(base) for name in names}
        else:
            losses = {name: (generator.random(400) < 0.05).astype(float) for name in names}
        wrong += World(losses).search(rules(is_whole=is_whole)).chosen is not None
        seen = np.stack([losses[name] for name in names])[:, :120]
        spread = 1.645 * seen.std(axis=1) / np.sqrt(120)
        naive += bool((seen.mean(axis=1) + spread < 0.05).any())
    assert wrong <= 12 < naive, (wrong, naive)  # 13 and more of 100 have 0.2 % at 5 %


def test_needed_units_are_enough_and_not_less() -> None:
    for is_whole in (False, True):
        least = needed_units(rules(is_whole=is_whole))
        assert least is not None
        for count, is_proven in ((least, True), (least - 1, False)):
            made = World({"cheap": np.zeros(count)})
            if not is_whole:
                found = made.search(rules(num_units=count, step=1))
                assert (found.chosen is not None) is is_proven
    assert needed_units(rules(num_units=40)) is not None  # 40 only explore; more are needed
    assert needed_units(rules(num_units=40, is_whole=True)) is None
