"""EVS: the first frame of a video, then what changes most (arXiv:2510.14624)."""

from __future__ import annotations

from dataclasses import dataclass

from foveate.carve.frame_method import ChangeMethod
from foveate.core.plan import KeepPlan, keep_only
from foveate.core.rank import top_k
from foveate.core.visual import VisualTokens


@dataclass(frozen=True, kw_only=True)
class Evs(ChangeMethod):
    """Efficient video sampling: a token's change is 1 - cos of it and the one at its place a frame
    before; the first frame stays whole, the rest of the budget goes to the greatest changes,
    wherever in the video they are.

    Never less than the first frame stays: a budget below it is exceeded, and so is every budget of
    a still image, which is a first frame. The report says so.
    """

    name = "evs"
    summary = "keeps a video's first frame, then the tokens that change most from frame to frame"
    paper = "arXiv:2510.14624"
    fidelity = "as the published rule; a budget that is no whole number of tokens is rounded"

    def plan(self, visual: VisualTokens, keep: int) -> KeepPlan:
        change = self.change(visual)
        return keep_only(top_k(change, keep), visual.num_tokens, {"change": change})
