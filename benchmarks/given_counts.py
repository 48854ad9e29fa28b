"""Methods told how many tokens each image keeps: controls of budgets by information."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from foveate.carve.method import Method, Step
from foveate.carve.methods import DivPrune, TokenCarve
from foveate.carve.needs import Need
from foveate.core.visual import VisualTokens


@dataclass(frozen=True, kw_only=True)
class Given(Method):
    """A method that is told how many tokens each image keeps.

    Args:
        counts: by the image's number.
    """

    counts_itself = True

    counts: tuple[int, ...] = ()

    @property
    def needs(self) -> frozenset[Need]:
        return super().needs | {"serials"}

    def adapt(
        self, visual: VisualTokens, keeps: Sequence[int], step: Step, num_layers: int
    ) -> tuple[int, ...]:
        return tuple(self.counts[serial] for serial in visual.serials)


@dataclass(frozen=True, kw_only=True)
class GivenDivPrune(Given, DivPrune):
    """DivPrune, told."""


@dataclass(frozen=True, kw_only=True)
class GivenTokenCarve(Given, TokenCarve):
    """TokenCarve, told."""


GIVEN: dict[str, type[Given]] = {
    "divprune": GivenDivPrune,
    "tokencarve": GivenTokenCarve,
}
