"""Random: the baseline that any method must beat."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from foveate.carve.method import Method
from foveate.carve.needs import Need
from foveate.core.layout import sent
from foveate.core.plan import KeepPlan, keep_only
from foveate.core.visual import VisualTokens
from foveate.errors import MethodError


@dataclass(frozen=True, kw_only=True)
class RandomTokens(Method):
    """Keep a uniformly random subset.

    Args:
        seed: with the image's serial (its prompt and its place there, or its number where the run
            counts) it fixes the choice, whatever the batching; beams see the same image.
    """

    name = "random"
    summary = "keeps a random subset (baseline)"

    seed: int = 0

    def __post_init__(self) -> None:
        if abs(self.seed) >= 2**42:
            raise MethodError(
                f"seed={self.seed} is beyond what generators take; use a smaller one."
            )
        super().__post_init__()

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"serials"})

    def plan(self, visual: VisualTokens, keep: int) -> KeepPlan:
        serials = visual.serials or tuple(range(visual.num_images))
        chosen = []
        for serial in serials:
            # A multiplier keeps (seed, serial) pairs apart; the generator lives on the CPU so that
            # the choice is the same on every device.
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + serial)
            chosen.append(torch.randperm(visual.num_tokens, generator=generator)[:keep])
        return keep_only(sent(torch.stack(chosen), visual.hidden.device), visual.num_tokens)
