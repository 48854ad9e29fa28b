"""Composed: what a method is that is made of other methods."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from foveate.carve.method import AttentionScores, Method, Positions, Sizes
from foveate.carve.registry import method
from foveate.core.budget import BUDGET
from foveate.errors import MethodError


@dataclass(frozen=True, kw_only=True)
class Composed(Method):
    """Methods made into one. Settings of all methods are its parts'; the budget is its last part's.

    Class attributes:
        article: how sentences call it.
    """

    article: ClassVar[str]

    # The parts have these.
    prune_layer: int | None = field(init=False, default=None)
    early_cache: Literal["compact", "full"] = field(init=False, default="compact")
    positions: Positions = field(init=False, default="original")
    sizes: Sizes = field(init=False, default="ignore")
    frames: Literal["joint", "each"] = field(init=False, default="joint")
    attention_scores: AttentionScores = field(init=False, default="plain")

    def __post_init__(self) -> None:
        last = self.parts[-1]
        if all(getattr(self, name) is None for name in BUDGET):
            for name in BUDGET:
                object.__setattr__(self, name, getattr(last, name))
            if self.budget != last.budget:
                raise MethodError(
                    f"{last.name} keeps {last.budget} whatever its budget, so {self.article} with "
                    "it at the end has none; take another method."
                )
        if self.budget != last.budget:
            raise MethodError(
                f"the budget of {self.article}, {self.budget}, is not that of {last.name} in it, "
                f"{last.budget}; leave it out."
            )
        super().__post_init__()

    @property
    @abstractmethod
    def parts(self) -> tuple[Method, ...]:
        """What it is made of, first to last."""

    @property
    def members(self) -> tuple[Method, ...]:
        return tuple(member for part in self.parts for member in part.members)


def built(part: Any) -> Any:
    """A part from its `to_dict` output; what is neither that nor a method is refused later."""
    return method(**part) if isinstance(part, Mapping) and "name" in part else part
