"""What a forward pass decides: which tokens of which image go on after each step."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from foveate.carve.method import Method, Step
from foveate.carve.tower.record import TowerRecorder
from foveate.core.by_frame import frames_left
from foveate.core.debiased import calibrated
from foveate.core.frames import Frames
from foveate.core.information_share import tokens_holding
from foveate.core.layout import PAD, ImageSpan, columns_of, sent
from foveate.core.plan import KeepPlan, compose
from foveate.core.precision import full_precision
from foveate.core.schedule import spans_of
from foveate.core.visual import VisualTokens
from foveate.errors import MethodError, UnsupportedModelError
from foveate.models.attention import RowRecorder


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


@dataclass
class Decider:
    """Asks the method at every step, image size by image size.

    Args:
        states: all images of the batch.
        text: [B, T] columns of the text that methods may read, on the host, PAD for none; None
            where none reads any.
        serials: a number for each image, which seeds random choices.
        rows_per_prompt: rows of the batch that show one prompt and get the same plan.
        num_layers: of the decoder.
        tower: what was recorded in the vision tower, if anything was asked of it.
        skipped: of each row of the batch, the padding before its prompt; () for none.

    Attributes:
        layer_input: [B, L, D] what the layer before a step was given, where the step asks for what
            that layer added.
        entering: [B, S, D], what the first layer was given, where a step asks for it.
        ahead: [B, H, L], attention of the layer about to run, where its step asks for it.
        foresight: [B, S] attention of text that read ahead over the prompt's tokens; see
            `engine.foresight`.
        spent: of each image, what that has cost in token-layers; () for nothing.
        of_dummies: [B, H, L], the attention that a step reads, if visual tokens had no content;
            where it is to be debiased.
        is_dummy, sizes: [B, L], see core.debiased.
        final_norm: of the decoder, where a step asks for states behind it.
    """

    states: list[ImageState]
    text: Tensor | None
    num_layers: int
    serials: tuple[int, ...]
    rows_per_prompt: int = 1
    tower: TowerRecorder | None = None
    skipped: tuple[int, ...] = ()
    layer_input: Tensor | None = None
    entering: Tensor | None = None
    ahead: Tensor | None = None
    foresight: Tensor | None = None
    spent: tuple[float, ...] = ()
    of_dummies: Tensor | None = None
    is_dummy: Tensor | None = None
    sizes: Tensor | None = None
    final_norm: Callable[[Tensor], Tensor] | None = None
    groups: dict[int, list[Group]] = field(default_factory=dict)
    _told: int | None = None  # layer of the step whose budgets the images' information told
    _placed: dict[tuple[int, tuple[int, ...]], tuple[Tensor, Tensor]] = field(default_factory=dict)

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
        look = _Look(self, step, hidden, rows, recorder, attention_output)
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
                groups.append(self._group(chosen, hidden.device, plan))
                plans.update({i: plan.image(j) for j, i in enumerate(chosen)})
        for i, state in enumerate(self.states):
            state.follow(plans.get(i), method)
        self.groups[step.layer] = groups
        return groups

    def _counts(self, step: Step, look: _Look) -> list[int]:
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

    def _tell(self, method: Method, look: _Look) -> None:
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

    def _group(self, members: Sequence[int], device: torch.device, plan: KeepPlan) -> Group:
        """A plan in all rows of its prompts."""
        samples, tokens = self.places(members, device)
        numbers = tuple(self.states[i].span.sample for i in members)
        count = self.rows_per_prompt
        if count == 1:
            state = self.states[members[0]]
            is_together = len(members) == 1 and state.alive is None and state.span.is_contiguous
            return Group(numbers, samples, tokens, plan, state.span.first if is_together else None)
        numbers = tuple(number + i for number in numbers for i in range(count))
        return Group(
            numbers,
            sent(torch.tensor(numbers)[:, None], device),
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
        counts = self._counts(step, _Look(self, step, hidden, rows, None, None))
        spans, found = spans_of(step.layers, self.num_layers), []
        for state, keep in zip(self.states, counts, strict=True):
            num_tokens = state.span.num_tokens
            keeps = step.method.keeps(keep, num_tokens, step.layers, self.num_layers)
            total = sum(count * span for count, span in zip(keeps, spans, strict=True))
            found.append(total if keep < num_tokens else 0)
        return tuple(found)

    def places(self, members: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
        """([G, 1] sample, [G, N] column) of what is left of equally long images."""
        key = (len(self.groups), tuple(members))
        if key not in self._placed:
            chosen = [self.states[i] for i in members]
            self._placed = {key: places_of(chosen, device)}  # asked for twice in a row
        return self._placed[key]

    def image_plans(self) -> list[ImagePlan]:
        """What became of every image."""
        return [ImagePlan(state.span, state.plans, state.budget) for state in self.states]


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


@dataclass
class _Look:
    """Gathers what the method asked for."""

    decider: Decider
    step: Step
    hidden: Tensor
    rows: Tensor | None
    recorder: RowRecorder | None
    attention_output: Tensor | None

    def at(self, members: Sequence[int]) -> VisualTokens:
        """The tokens of equally long images."""
        decider, needs, hidden = self.decider, self.step.needs, self.hidden
        states = [decider.states[i] for i in members]
        samples, tokens = decider.places(members, hidden.device)
        found: dict[str, Tensor | None] = {}
        if "foresight" in needs and decider.foresight is not None:
            found["foresight"] = decider.foresight.to(hidden.device)[samples, tokens]
        tokens = columns_of(tokens, self._rows_of(samples))
        if "attention" in needs or "attention_ahead" in needs:
            is_ahead = "attention_ahead" in needs
            row = _read(decider.ahead if is_ahead else self.recorder and self.recorder.here.row)
            row = row.to(hidden.device)  # [B, H, L]
            if self.step.debiases:
                row = self._debiased(row)
            index = tokens[:, None].expand(-1, row.shape[1], -1)
            found["attention"] = self._rows_in(row, samples).gather(2, index)
        if "attention_output" in needs:
            output = _read(self.attention_output).to(hidden.device)
            found["attention_output"] = self._tokens_in(output, states, samples, tokens)
        if "layer_update" in needs:
            assert decider.layer_input is not None
            update = hidden - decider.layer_input.to(hidden.device)
            found["layer_update"] = self._tokens_in(update, states, samples, tokens)
        if "text" in needs or "text_attention" in needs:
            found |= self._text(states, samples, tokens)
        if "keys" in needs:
            keys = _read(self.recorder and self.recorder.here.keys).to(hidden.device)
            found["keys"] = self._tokens_in(keys, states, samples, tokens)
        tower = decider.tower
        if tower is not None:
            pieces = [tower.of(state.span) for state in states]
            read: dict[str, list[Tensor | None]] = {
                name: [piece.read.get(reading) for piece in pieces]
                for name, reading in tower.readings.get(self.step.layer, {}).items()
            }
            read["owners"] = [piece.owners for piece in pieces]
            for name, values in read.items():
                known = [value for value in values if value is not None]
                if len(known) == len(states):
                    found[name] = torch.stack(
                        [state.left_of(v) for v, state in zip(known, states, strict=True)]
                    ).to(hidden.device)
        is_whole = all(state.alive is None for state in states)
        own = self._tokens_in(hidden, states, samples, tokens)
        if "normed" in needs:
            found["normed"] = self._normed(own)
        return VisualTokens(
            hidden=own,
            # What is left of an image is no grid any more.
            grids=tuple(state.span.grid if is_whole else None for state in states),
            frames=states[0].frames,
            serials=tuple(decider.serials[i] for i in members),
            counts=states[0].counts[-number:] if (number := self.step.number) else (),
            starts=tuple(
                state.span.first - (decider.skipped[state.span.sample] if decider.skipped else 0)
                for state in states
            ),
            entering=self._entering(members) if "entering" in needs else None,
            spent=tuple(decider.spent[i] for i in members) if decider.spent else (),
            **found,
        )

    def hidden_at(self, members: Sequence[int]) -> Tensor:
        """[G, N, D], what enters the layer of equally long images."""
        states = [self.decider.states[i] for i in members]
        samples, tokens = self.decider.places(members, self.hidden.device)
        return self._tokens_in(
            self.hidden, states, samples, columns_of(tokens, self._rows_of(samples))
        )

    def _debiased(self, row: Tensor) -> Tensor:
        decider = self.decider
        of_dummies, is_dummy, sizes = (
            None if t is None else t.to(row.device)
            for t in (_read(decider.of_dummies), decider.is_dummy, decider.sizes)
        )
        assert of_dummies is not None
        assert is_dummy is not None
        return calibrated(row, of_dummies, is_dummy, sizes)

    def _normed(self, states: Tensor) -> Tensor:
        assert self.decider.final_norm is not None
        return self.decider.final_norm(states).detach()

    def _entering(self, members: Sequence[int]) -> VisualTokens:
        """The images as they entered the first layer, and the text."""
        decider, hidden = self.decider, self.decider.entering
        assert hidden is not None
        states = [ImageState(decider.states[i].span) for i in members]
        samples, tokens = places_of(states, hidden.device)
        look = _Look(decider, replace(self.step, needs=frozenset({"text"})), hidden, *[None] * 3)
        found = look._text(states, samples, tokens)
        own = look._tokens_in(hidden, states, samples, tokens)
        device = self.hidden.device
        found = {name: None if v is None else v.to(device) for name, v in found.items()}
        return VisualTokens(hidden=own.to(device), frames=states[0].frames, **found)

    def _tokens_in(
        self, x: Tensor, states: Sequence[ImageState], samples: Tensor, tokens: Tensor
    ) -> Tensor:
        """The images' rows of `x` [B, L, D], without a gradient. [G, N, D]"""
        x = x.detach()
        spans = [state.span for state in states]
        is_cut = self.rows is not None or any(state.alive is not None for state in states)
        if is_cut or not all(span.is_contiguous for span in spans):
            return x[samples, tokens]
        # Slices, which cost nothing where a method does not look at them.
        slices = [x[span.sample, span.first : span.last + 1] for span in spans]
        return slices[0][None] if len(slices) == 1 else torch.stack(slices)

    def _rows_in(self, x: Tensor, samples: Tensor) -> Tensor:
        """The images' samples in `x` [B, ...]. [G, ...]"""
        return x if len(x) == len(samples) == 1 else x[samples[:, 0]]

    def _rows_of(self, samples: Tensor) -> Tensor | None:
        return self.rows[samples[:, 0].to(self.rows.device)] if self.rows is not None else None

    def _text(
        self, states: Sequence[ImageState], samples: Tensor, tokens: Tensor
    ) -> dict[str, Tensor | None]:
        device = self.hidden.device
        assert self.decider.text is not None
        # On the host, what is known there.
        columns = self.decider.text[[state.span.sample for state in states]]  # [G, T]
        mask = columns > torch.tensor([[state.span.last] for state in states])
        # An image at the end of its prompt is read with the text before it.
        mask = torch.where(mask.any(dim=1, keepdim=True), mask, columns != PAD)
        columns, mask = sent(columns, device), sent(mask, device)
        found: dict[str, Tensor | None] = {"text_mask": mask}
        at = columns_of(columns.clamp_min(0), self._rows_of(samples))
        if "text" in self.step.needs:
            text = self.hidden[samples, at].detach()
            found["text"] = text * mask.unsqueeze(-1)
            if "keys" in self.step.needs:
                keys = _read(self.recorder and self.recorder.here.keys).to(device)
                found["text_keys"] = keys[samples, at] * mask.unsqueeze(-1)
            if "normed" in self.step.needs:
                found["text_normed"] = self._normed(text) * mask.unsqueeze(-1)
        if "text_attention" in self.step.needs:
            rows = _read(self.recorder and self.recorder.here.text_rows).to(device)[
                samples[:, 0]
            ]  # [G, T, L]
            index = tokens[:, None].expand(-1, rows.shape[1], -1)
            found["text_attention"] = rows.gather(2, index) * mask.unsqueeze(-1)
        return found


def _read(found: Tensor | None) -> Tensor:
    """What was read of the attention of the layer before a step.

    Raises:
        UnsupportedModelError: nothing was, as it passes by transformers' attention interface.
    """
    if found is None:
        raise UnsupportedModelError(
            "the method reads attention, and the layer before the cut does not compute it through "
            "transformers' attention interface, where foveate reads it; use a method that reads "
            "none, such as DivPrune."
        )
    return found


def check_plan(method: Method, plan: Any, visual: VisualTokens, keep: int) -> None:
    """Hold a method to what a KeepPlan promises, so that a wrong one does not answer from anything.

    Shapes cost nothing to look at. What the indices are is read only of methods from elsewhere: on
    a GPU it means waiting, and tests hold the built-in ones to it.

    Raises:
        MethodError: names the method and what is wrong.
    """
    if not isinstance(plan, KeepPlan):
        raise MethodError(f"{method.name}.plan returned {type(plan).__name__}, no KeepPlan.")
    if plan.num_kept != keep and (method.exact_budget or plan.num_kept > keep):
        raise MethodError(
            f"{method.name}.plan kept {plan.num_kept} tokens of each image, not {keep}."
        )
    rows, counts = visual.num_images, (plan.merge_src.shape, plan.merge_dst.shape)
    if plan.num_tokens != visual.num_tokens or plan.num_images != rows or counts[0] != counts[1]:
        raise MethodError(
            f"{method.name}.plan returned indices {tuple(plan.keep_idx.shape)} into "
            f"{plan.num_tokens} tokens for {rows} images of {visual.num_tokens}."
        )
    if all(type(member).reference() == member.name for member in method.members):
        return
    kept, moved = plan.keep_idx, torch.cat([plan.merge_src, plan.merge_dst], dim=1)
    is_ascending = bool((kept[:, 1:] > kept[:, :-1]).all())
    inside = [bool(((idx >= 0) & (idx < visual.num_tokens)).all()) for idx in (kept, moved)]
    if not (is_ascending and all(inside)):
        raise MethodError(
            f"{method.name}.plan returned indices that are not ascending or not within its "
            f"{visual.num_tokens} tokens; return keep_idx sorted, each token once."
        )
    went_on = torch.zeros(rows, visual.num_tokens, dtype=torch.bool, device=kept.device)
    went_on.scatter_(1, kept, True)
    if bool(went_on.gather(1, plan.merge_src).any()) or not bool(
        went_on.gather(1, plan.merge_dst).all()
    ):
        raise MethodError(
            f"{method.name}.plan merges tokens that are kept, or into tokens that are not."
        )
