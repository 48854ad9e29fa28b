"""Stack: one method after another, e.g. behind the vision tower and then in the language model."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

from typing_extensions import Self

from foveate.carve.composed import Composed, built
from foveate.carve.frame_method import FrameMethod
from foveate.carve.method import Method, Step
from foveate.core.plan import KeepPlan
from foveate.core.visual import VisualTokens
from foveate.errors import MethodError


@dataclass(frozen=True, kw_only=True)
class Stack(Composed):
    """Methods that act in turn, each on what the one before left.

    Every budget is of the image as it was at first: divprune at 50 %, then tokencarve at 25 %,
    leaves a quarter. The stack's own budget is that of its last method and may be left out.

    Args:
        stages: methods in the order they act; each must cut in later layers than the one before.
            All other settings are theirs.

    Example:
        >>> from foveate import DivPrune, FastV
        >>> print(Stack(stages=(DivPrune(keep_ratio=0.5), FastV(keep_ratio=0.25))))
        divprune(keep=50%) + fastv(keep=25%)
    """

    name = "stack"
    summary = "two methods in turn, e.g. one behind the vision tower and one in the language model"
    article = "a stack"

    stages: tuple[Method, ...] = ()

    def __post_init__(self) -> None:
        if len(self.stages) < 2:
            raise MethodError(
                f"a stack of {len(self.stages)} methods; give at least two, "
                "e.g. divprune:50%+tokencarve."
            )
        inner = [stage for stage in self.stages[1:] if stage.where == "vision_tower"]
        if inner:
            raise MethodError(
                f"{inner[0].name} acts inside the vision tower and must come first in the stack."
            )
        inner = [stage for stage in self.stages[1:] if isinstance(stage, FrameMethod)]
        if inner:
            raise MethodError(
                f"{inner[0].name} compares whole frames and must come first in the stack."
            )
        super().__post_init__()

    @property
    def parts(self) -> tuple[Method, ...]:
        return self.stages

    @property
    def where(self) -> Any:  # type: ignore[override]
        """Where its first method acts."""
        return self.stages[0].where

    def steps(self, num_layers: int, first_layer: int) -> tuple[Step, ...]:
        found = [step for s in self.stages for step in s.steps(num_layers, first_layer)]
        for before, after in itertools.pairwise(found):
            if after.layer <= before.layer:
                raise MethodError(
                    f"{after.method.name} cuts before layer {after.layer}, not behind "
                    f"{before.method.name} (layer {before.layer}); let one cut elsewhere, by "
                    "prune_layer or depths, or take another."
                )
        return tuple(found)

    def plan(self, visual: VisualTokens, keep: int) -> KeepPlan:
        raise MethodError("a stack decides nothing itself; call plan of one of its stages.")

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.reference(), "stages": [stage.to_dict() for stage in self.stages]}

    @classmethod
    def from_dict(cls, settings: dict[str, Any]) -> Self:
        stages = settings.get("stages", ())
        if isinstance(stages, (list, tuple)):
            stages = tuple(map(built, stages))
        return super().from_dict({**settings, "stages": stages})

    def __str__(self) -> str:
        return " + ".join(str(stage) for stage in self.stages)
