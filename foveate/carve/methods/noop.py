"""No-op: keeps every visual token; the reference that every other number is read against."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from foveate.carve.method import Method
from foveate.core.budget import Budget
from foveate.core.plan import KeepPlan, keep_only
from foveate.core.visual import VisualTokens


@dataclass(frozen=True, kw_only=True)
class NoOp(Method):
    """Keep everything. The engine leaves the model bitwise alone; any budget given is ignored."""

    name = "noop"
    summary = "keeps every visual token (reference)"

    @property
    def budget(self) -> Budget:
        return Budget(keep_ratio=1.0)

    def plan(self, visual: VisualTokens, keep: int) -> KeepPlan:
        every = torch.arange(visual.num_tokens, device=visual.hidden.device)
        return keep_only(every.expand(visual.num_images, -1), visual.num_tokens)
