"""One image on its way through the steps of a pass: what is left of it, and where that stands."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from foveate.carve.method import Method
from foveate.core.by_frame import frames_left
from foveate.core.frames import Frames
from foveate.core.layout import ImageSpan, sent
from foveate.core.plan import KeepPlan, compose


@dataclass(frozen=True)
class ImagePlan:
    """What was decided for one image: where it sits, and the plan of each step (G = 1).

    `budget` is the last one that its information told, None where the budget is fixed.
    """

    span: ImageSpan
    steps: tuple[KeepPlan, ...]
    budget: int | None = None

    @cached_property
    def plan(self) -> KeepPlan | None:
        """Where each token of the image ended, see `core.plan.compose`; None: kept whole."""
        return functools.reduce(compose, self.steps) if self.steps else None

    @property
    def num_kept(self) -> int:
        """Tokens that go on."""
        return self.steps[-1].num_kept if self.steps else self.span.num_tokens


@dataclass
class ImageState:
    """One image on its way through the steps.

    Attributes:
        alive: [n] which of its tokens are left, in its own numbering; None for all.
        counts: how many were left after each step.
        plans: of the steps that took some.
        budget: how many the method at work is to keep, where it told by what they are.
        frames: what is left of those of a video.
    """

    span: ImageSpan
    alive: Tensor | None = None
    counts: tuple[int, ...] = ()
    plans: tuple[KeepPlan, ...] = ()
    budget: int | None = None
    frames: Frames | None = None

    def __post_init__(self) -> None:
        self.frames = self.span.frames

    def follow(self, plan: KeepPlan | None, method: Method) -> None:
        """One step further; None leaves the image as it is."""
        if plan is not None:
            if self.frames is not None:
                is_each = method.frames == "each"
                self.frames = frames_left(self.frames, plan.num_kept) if is_each else Frames()
            kept = plan.keep_idx[0]
            self.alive = kept if self.alive is None else self.alive[kept]
            self.plans = (*self.plans, plan)
        self.counts = (*self.counts, self.num_left)

    @property
    def num_left(self) -> int:
        return self.plans[-1].num_kept if self.plans else self.span.num_tokens

    def left_of(self, values: Tensor) -> Tensor:
        """Those of the tokens that are left: [N, ...] -> [n, ...]."""
        return values if self.alive is None else values[self.alive.to(values.device)]


def places_of(chosen: Sequence[ImageState], device: torch.device) -> tuple[Tensor, Tensor]:
    """([G, 1] sample, [G, N] column) of what is left of equally long images."""
    columns = torch.stack([state.span.tokens for state in chosen])
    samples = torch.tensor([[state.span.sample] for state in chosen])
    if device.type != "cpu":  # in one copy
        both = sent(torch.cat([samples, columns], dim=1), device)
        samples, columns = both[:, :1], both[:, 1:]
    if all(state.alive is None for state in chosen):
        return samples, columns
    every = torch.arange(columns.shape[1], device=device)
    return samples, torch.stack(
        [row[state.left_of(every)] for row, state in zip(columns, chosen, strict=True)]
    )
