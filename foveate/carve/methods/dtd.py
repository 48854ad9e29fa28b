"""DTD: tokens that are like their place a frame before go (TimeChat-Online, arXiv:2504.17343)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from foveate.carve.frame_method import ChangeMethod
from foveate.carve.method import Step
from foveate.core.budget import BUDGET, Budget
from foveate.core.plan import KeepPlan, keep_only
from foveate.core.rank import top_k
from foveate.core.visual import VisualTokens
from foveate.errors import MethodError


@dataclass(frozen=True, kw_only=True)
class Dtd(ChangeMethod):
    """Differential token dropping, by features: a token goes where its cosine to the one at its
    place a frame before is above a threshold. The video says how many stay.

    The frame before counts whether or not its token was kept, so slow drift is never noticed. The
    first frame stays whole, and so does a still image.

    Args:
        keep_tokens, keep_ratio: a ceiling: where more tokens changed, those that changed most stay.
            Both may be left out.
        threshold: of the cosine, in [-1, 1]; lower keeps less.
    """

    name = "dtd"
    summary = "drops a video's tokens that are like their place in the frame before"
    paper = "arXiv:2504.17343"
    fidelity = (
        "as the authors' code at yaolinli/TimeChat-Online@25a1578 with features and an absolute "
        "threshold"
    )
    exact_budget = False
    counts_itself = True

    threshold: float = 0.5

    def __post_init__(self) -> None:
        if not -1.0 <= self.threshold <= 1.0:
            raise MethodError(f"threshold={self.threshold} is outside [-1, 1], as no cosine is.")
        super().__post_init__()

    @property
    def budget(self) -> Budget:
        if all(getattr(self, name) is None for name in BUDGET):
            return Budget(keep_ratio=1.0)
        return super().budget

    def adapt(
        self, visual: VisualTokens, keeps: Sequence[int], step: Step, num_layers: int
    ) -> tuple[int, ...]:
        changed = (self.change(visual) >= 1 - self.threshold).sum(dim=1).tolist()
        return tuple(min(count, keeps[step.number]) for count in changed)

    def plan(self, visual: VisualTokens, keep: int) -> KeepPlan:
        change = self.change(visual)
        return keep_only(top_k(change, keep), visual.num_tokens, {"change": change})
