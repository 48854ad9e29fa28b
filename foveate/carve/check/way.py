"""The two ways in which a prompt gets shorter, each with a method to check it with."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from foveate.carve.engine.run import Run
from foveate.carve.method import Method
from foveate.carve.methods.divprune import DivPrune
from foveate.carve.methods.tokencarve import TokenCarve
from foveate.models.family import Cut


@dataclass(frozen=True, kw_only=True)
class Way:
    """One of them.

    Args:
        cut: where tokens leave.
        method: that decides on them.
    """

    cut: Cut
    method: type[Method]

    def run(self, model: nn.Module, method: Method | None = None, **budget: float) -> Run:
        """A run on `model`, not yet attached."""
        return Run(model, method or self.method(**budget), cut=self.cut)  # type: ignore[arg-type]


IN_LLM = Way(cut="in_llm", method=TokenCarve)  # merges, and reads attention
BEFORE_LLM = Way(cut="before_llm", method=DivPrune)
