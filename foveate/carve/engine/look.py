"""What a method is shown of some images at a step: all that it asked for, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from foveate.carve.engine.image_state import ImageState, places_of
from foveate.carve.method import Step
from foveate.carve.tower.record import TowerRecorder
from foveate.core.debiased import calibrated
from foveate.core.layout import PAD, columns_of, sent
from foveate.core.visual import VisualTokens
from foveate.errors import UnsupportedModelError
from foveate.models.attention import RowRecorder


@dataclass(kw_only=True)
class Seen:
    """What a pass has read so far of what methods may ask for.

    Args:
        text: [B, T] columns of the text that methods may read, on the host, PAD for none; None
            where none reads any.
        serials: a number for each image, which seeds random choices.
        tower: what was recorded in the vision tower, if anything was asked of it.
        skipped: of each row of the batch, the padding before its prompt; () for none.
        final_norm: of the decoder, where a step asks for states behind it.

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
    """

    text: Tensor | None
    serials: tuple[int, ...]
    tower: TowerRecorder | None = None
    skipped: tuple[int, ...] = ()
    final_norm: Callable[[Tensor], Tensor] | None = None
    layer_input: Tensor | None = None
    entering: Tensor | None = None
    ahead: Tensor | None = None
    foresight: Tensor | None = None
    spent: tuple[float, ...] = ()
    of_dummies: Tensor | None = None
    is_dummy: Tensor | None = None
    sizes: Tensor | None = None


@dataclass
class Look:
    """Gathers what a step asked for.

    Args:
        states: all images of the batch, as they are before the step.
        seen: what the pass has read.
        step: that decides.
        hidden: [B, L, D], entering the step's layer.
        rows: [B, L] columns of the prompt that are still there; None for all.
        recorder, attention_output: of the layer before, as far as the method needs them.
    """

    states: Sequence[ImageState]
    seen: Seen
    step: Step
    hidden: Tensor
    rows: Tensor | None
    recorder: RowRecorder | None = None
    attention_output: Tensor | None = None
    _placed: dict[tuple[int, ...], tuple[Tensor, Tensor]] = field(default_factory=dict)

    def places(self, members: Sequence[int]) -> tuple[Tensor, Tensor]:
        """([G, 1] sample, [G, N] column) of what is left of equally long images."""
        key = tuple(members)
        if key not in self._placed:
            chosen = [self.states[i] for i in members]
            self._placed = {key: places_of(chosen, self.hidden.device)}  # asked for twice in a row
        return self._placed[key]

    def at(self, members: Sequence[int]) -> VisualTokens:
        """The tokens of equally long images."""
        seen, needs, hidden = self.seen, self.step.needs, self.hidden
        states = [self.states[i] for i in members]
        samples, tokens = self.places(members)
        found: dict[str, Tensor | None] = {}
        if "foresight" in needs and seen.foresight is not None:
            found["foresight"] = seen.foresight.to(hidden.device)[samples, tokens]
        tokens = columns_of(tokens, self._rows_of(samples))
        if "attention" in needs or "attention_ahead" in needs:
            is_ahead = "attention_ahead" in needs
            row = _read(seen.ahead if is_ahead else self.recorder and self.recorder.here.row)
            row = row.to(hidden.device)  # [B, H, L]
            if self.step.debiases:
                row = self._debiased(row)
            index = tokens[:, None].expand(-1, row.shape[1], -1)
            found["attention"] = self._rows_in(row, samples).gather(2, index)
        if "attention_output" in needs:
            output = _read(self.attention_output).to(hidden.device)
            found["attention_output"] = self._tokens_in(output, states, samples, tokens)
        if "layer_update" in needs:
            assert seen.layer_input is not None
            update = hidden - seen.layer_input.to(hidden.device)
            found["layer_update"] = self._tokens_in(update, states, samples, tokens)
        if "text" in needs or "text_attention" in needs:
            found |= self._text(states, samples, tokens)
        if "keys" in needs:
            keys = _read(self.recorder and self.recorder.here.keys).to(hidden.device)
            found["keys"] = self._tokens_in(keys, states, samples, tokens)
        tower = seen.tower
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
            serials=tuple(seen.serials[i] for i in members),
            counts=states[0].counts[-number:] if (number := self.step.number) else (),
            starts=tuple(
                state.span.first - (seen.skipped[state.span.sample] if seen.skipped else 0)
                for state in states
            ),
            entering=self._entering(members) if "entering" in needs else None,
            spent=tuple(seen.spent[i] for i in members) if seen.spent else (),
            **found,
        )

    def hidden_at(self, members: Sequence[int]) -> Tensor:
        """[G, N, D], what enters the layer of equally long images."""
        states = [self.states[i] for i in members]
        samples, tokens = self.places(members)
        return self._tokens_in(
            self.hidden, states, samples, columns_of(tokens, self._rows_of(samples))
        )

    def _debiased(self, row: Tensor) -> Tensor:
        seen = self.seen
        of_dummies, is_dummy, sizes = (
            None if t is None else t.to(row.device)
            for t in (_read(seen.of_dummies), seen.is_dummy, seen.sizes)
        )
        assert of_dummies is not None
        assert is_dummy is not None
        return calibrated(row, of_dummies, is_dummy, sizes)

    def _normed(self, states: Tensor) -> Tensor:
        assert self.seen.final_norm is not None
        return self.seen.final_norm(states).detach()

    def _entering(self, members: Sequence[int]) -> VisualTokens:
        """The images as they entered the first layer, and the text."""
        hidden = self.seen.entering
        assert hidden is not None
        states = [ImageState(self.states[i].span) for i in members]
        samples, tokens = places_of(states, hidden.device)
        step = replace(self.step, needs=frozenset({"text"}))
        look = Look(states, self.seen, step, hidden, None)
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
        assert self.seen.text is not None
        # On the host, what is known there.
        columns = self.seen.text[[state.span.sample for state in states]]  # [G, T]
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
