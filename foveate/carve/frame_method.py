"""What a method of videos is: it compares whole frames, as they came out of the vision tower."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from foveate.carve.method import Method, Step
from foveate.core.frame_change import change
from foveate.core.frames import Frames
from foveate.core.visual import VisualTokens
from foveate.errors import BudgetError, MethodError


@dataclass(frozen=True, kw_only=True)
class FrameMethod(Method):
    """Compares the frames of a video with each other; a still image is a video of one frame.

    Where it cuts behind the first decoder layer, it still looks at what entered that one: later
    layers tell equal frames apart by where they stand.
    """

    where = "encoder"
    default_layer = 0

    def __post_init__(self) -> None:
        if self.budget.needs_states:
            raise BudgetError(
                f"{self.name} chooses over the frames of a video, and the budget {self.budget} is "
                "told by what one image holds; use keep_ratio or keep_tokens."
            )
        if self.frames == "each":
            raise MethodError(
                f"{self.name} compares the frames of a video with each other, and frames='each' "
                "would show it one at a time; leave frames at 'joint'."
            )
        super().__post_init__()

    def steps(self, num_layers: int, first_layer: int) -> tuple[Step, ...]:
        found = super().steps(num_layers, first_layer)
        return tuple(
            replace(step, needs=step.needs | {"entering"}) if step.layer else step for step in found
        )

    def split(self, visual: VisualTokens) -> tuple[Tensor, int]:
        """([G, T, n, D] the frames of each video, tokens behind its last frame).

        Raises:
            MethodError: frames are not known, or not of one size.
        """
        states = visual.hidden if visual.entering is None else visual.entering.hidden
        frames = Frames((visual.num_tokens,)) if visual.frames is None else visual.frames
        count, each, rest = frames.whole(self.name)
        shape = (len(states), count, each, states.shape[-1])
        return states[:, : count * each].reshape(shape), rest


@dataclass(frozen=True, kw_only=True)
class ChangeMethod(FrameMethod):
    """Keeps the first frame whole, and of the others what changed from the frame before."""

    def count(self, num_tokens: int, frames: Frames | None = None, image: int = 0) -> int:
        keep = super().count(num_tokens, frames, image)
        return max(keep, self._least(num_tokens, frames))

    def remark(self, num_tokens: int, frames: Frames | None) -> str:
        least, budget = self._least(num_tokens, frames), self.budget.count(num_tokens)
        is_above = least > budget
        what = "a video's first frame" if least < num_tokens else "a still image"
        if not is_above and not (self.counts_itself and least == num_tokens):
            return ""
        counts = f" ({least} tokens, where the budget has {budget})" if is_above else ""
        return f"{self.name} keeps {what} whole{counts}: it has no frame before it"

    def _least(self, num_tokens: int, frames: Frames | None) -> int:
        """Tokens that have none at their place in a frame before."""
        if frames is None:
            return num_tokens
        if not frames.lengths:
            return 0  # `plan` refuses
        _, each, rest = frames.whole(self.name)
        return each + rest

    def change(self, visual: VisualTokens) -> Tensor:
        """[G, N] float32 from 0 to 2; infinite where there is nothing before: see `_least`."""
        videos, rest = self.split(visual)
        changes = torch.stack([change(video).flatten() for video in videos])
        behind = changes.new_full((len(changes), rest), torch.inf)
        return torch.cat([changes, behind], dim=1)
