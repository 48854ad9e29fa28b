"""What a forward pass decides: which tokens of which image go on after each step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from foveate.carve.engine.check_plan import check_plan
from foveate.carve.engine.image_state import ImagePlan, ImageState
from foveate.carve.engine.look import Look, Seen
from foveate.carve.method import Method, Step
from foveate.core.information_share import tokens_holding
from foveate.core.layout import sent
from foveate.core.plan import KeepPlan
from foveate.core.precision import full_precision
from foveate.core.schedule import spans_of
from foveate.models.attention import RowRecorder


@dataclass(frozen=True)
class Group:
    """Equally long images that one call of a method decided on.

    Args:
        numbers: rows of the batch, one for each image.
        samples: [G, 1] the same on the device.
        tokens: [G, N] columns of the tokens that were left, in the uncompressed prompt.
        plan: for them.
        first: column of the first where they are one image that stands together, else None.
    """

    numbers: tuple[int, ...]
    samples: Tensor
    tokens: Tensor
    plan: KeepPlan
    first: int | None = None


@dataclass
class Decider:
    """Asks the method at every step, image size by image size.

    Args:
        states: all images of the batch.
        seen: what the pass has read for them.
        num_layers: of the decoder.
        rows_per_prompt: rows of the batch that show one prompt and get the same plan.
    """

    states: list[ImageState]
    seen: Seen
    num_layers: int
    rows_per_prompt: int = 1
    _told: int | None = None  # layer of the step whose budgets the images' information told

    def decide(
        self,
        step: Step,
        hidden: Tensor,
        rows: Tensor | None,
        recorder: RowRecorder | None,
        attention_output: Tensor | None,
    ) -> list[Group]:
        """The groups that lose tokens at a step.

        Args:
            hidden: [B, L, D], entering the step's layer.
            rows: [B, L] columns of the prompt that are still there; None for all.
            recorder, attention_output: of the layer before, as far as the method needs them.
        """
        look = Look(self.states, self.seen, step, hidden, rows, recorder, attention_output)
        method = step.method
        by_size: dict[tuple[Any, ...], list[int]] = {}
        counts = self._counts(step, look)
        for i, (state, keep) in enumerate(zip(self.states, counts, strict=True)):
            num_tokens = state.span.num_tokens
            if keep == num_tokens and not method.counts_itself:
                continue
            keeps = method.keeps(keep, num_tokens, step.layers, self.num_layers)
            size = (state.counts, num_tokens, state.span.frames, state.frames, keeps)
            by_size.setdefault(size, []).append(i)
        groups, plans = [], {}
        for (*_, keeps), members in by_size.items():
            visual = look.at(members)
            with torch.no_grad(), full_precision(hidden.device):
                wanted = method.adapt(visual, keeps, step, self.num_layers)
            for keep in dict.fromkeys(wanted):
                if keep >= visual.num_tokens:
                    continue
                own = [j for j, count in enumerate(wanted) if count == keep]
                part = visual if len(own) == len(members) else visual.take(own)
                with torch.no_grad(), full_precision(hidden.device):
                    plan = method.select(part, keep)
                check_plan(method, plan, part, keep)
                chosen = [members[j] for j in own]
                groups.append(self._group(chosen, look, plan))
                plans.update({i: plan.image(j) for j, i in enumerate(chosen)})
        for i, state in enumerate(self.states):
            state.follow(plans.get(i), method)
        return groups

    def _counts(self, step: Step, look: Look) -> list[int]:
        """How many tokens of each image the method is to keep.

        Where their information says, it is that of what the method's first step is given.
        """
        method, budget = step.method, step.method.budget
        if not budget.needs_states:
            return [
                method.count(state.span.num_tokens, state.span.frames, image=i)
                for i, state in enumerate(self.states)
            ]
        if step.number == 0 and self._told != step.layer:
            self._told = step.layer
            self._tell(method, look)
        return [state.budget or 0 for state in self.states]

    def _tell(self, method: Method, look: Look) -> None:
        """Find the budget of each image by what it holds."""
        budget = method.budget
        assert budget.keep_information is not None
        by_length: dict[int, list[int]] = {}
        for i, state in enumerate(self.states):
            by_length.setdefault(state.num_left, []).append(i)
        for members in by_length.values():
            with torch.no_grad(), full_precision(look.hidden.device):
                wanted = tokens_holding(
                    look.hidden_at(members), budget.keep_information, method=method.name
                )
            for i, count in zip(members, wanted.tolist(), strict=True):
                state = self.states[i]
                state.budget = budget.within(count, state.span.num_tokens, image=i)

    def _group(self, members: Sequence[int], look: Look, plan: KeepPlan) -> Group:
        """A plan in all rows of its prompts."""
        samples, tokens = look.places(members)
        numbers = tuple(self.states[i].span.sample for i in members)
        count = self.rows_per_prompt
        if count == 1:
            state = self.states[members[0]]
            is_together = len(members) == 1 and state.alive is None and state.span.is_contiguous
            return Group(numbers, samples, tokens, plan, state.span.first if is_together else None)
        numbers = tuple(number + i for number in numbers for i in range(count))
        return Group(
            numbers,
            sent(torch.tensor(numbers)[:, None], samples.device),
            tokens.repeat_interleave(count, dim=0),
            plan.repeat_interleave(count),
        )

    def would_drop(self, step: Step) -> bool:
        """Whether a step may have tokens to drop: some image has more than the budget."""
        method = step.method
        if method.counts_itself or (method.budget.needs_states and self.states):
            return True
        return any(
            method.count(state.span.num_tokens, state.span.frames, image=i) < state.span.num_tokens
            for i, state in enumerate(self.states)
        )

    def budgets(self, step: Step, hidden: Tensor, rows: Tensor | None) -> tuple[int, ...]:
        """Of each image, the token-layers that the method has for it; 0 where it keeps all.

        Args:
            hidden, rows: as for `decide`.
        """
        counts = self._counts(step, Look(self.states, self.seen, step, hidden, rows))
        spans, found = spans_of(step.layers, self.num_layers), []
        for state, keep in zip(self.states, counts, strict=True):
            num_tokens = state.span.num_tokens
            keeps = step.method.keeps(keep, num_tokens, step.layers, self.num_layers)
            total = sum(count * span for count, span in zip(keeps, spans, strict=True))
            found.append(total if keep < num_tokens else 0)
        return tuple(found)

    def image_plans(self) -> list[ImagePlan]:
        """What became of every image."""
        return [ImagePlan(state.span, state.plans, state.budget) for state in self.states]
