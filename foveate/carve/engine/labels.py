"""Labels and logit positions of a call: they count columns of the prompt, not what is left of it.

A host model applies its head and its loss to what its base model returns. So the rows that are left
go back to their own columns before it sees them, and every family's own shift, mask and loss hold.
A row that was dropped is zero and predicts nothing: the label of the next column is taken out.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from foveate.core.layout import PAD
from foveate.errors import UnsupportedModeError
from foveate.models.attachment import bound_arguments

IGNORED = -100  # what torch's and transformers' losses leave out unless told otherwise


@dataclass(frozen=True, kw_only=True, eq=False)
class Labels:
    """What a call of the host model asks for by column.

    Args:
        labels: [B, S] int64, our own copy, which the host model computes its loss from: column p
            holds what row p - 1 has to predict. None for none.
        shifted: [B, S] the same where the caller has shifted them: column p is for row p.
        positions: `logits_to_keep` as a tensor: [P] or [B, P] columns, or a [B, S] bool mask.
        ignored: the label that is left out of the loss.
        num_given: labels of the call that some row has to predict.
    """

    labels: Tensor | None
    shifted: Tensor | None
    positions: Tensor | None
    ignored: int
    num_given: int

    @classmethod
    def of(
        cls, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Labels | None, tuple[Any, ...], dict[str, Any]]:
        """Read a call of the host model, and give it copies of the labels to compute its loss from.

        Args:
            module, args, kwargs: as its pre-hook gets them.

        Returns:
            What it asks for by column, None for nothing; and the arguments to call it with.
        """
        inputs = bound_arguments(module, args, kwargs)
        labels, shifted = inputs.get("labels"), inputs.get("shift_labels")
        positions = inputs.get("logits_to_keep")
        positions = positions if isinstance(positions, Tensor) else None
        if labels is None and shifted is None and positions is None:
            return None, args, kwargs
        # What is dropped is known only when the base model has run, and the host model holds its
        # labels by then: so they are copied now and filled later.
        copies = {id(given): given.clone() for given in (labels, shifted) if given is not None}
        ignored = int(inputs.get("ignore_index", IGNORED))
        of_rows = shifted if shifted is not None else labels[:, 1:] if labels is not None else None
        found = cls(
            labels=copies.get(id(labels)),
            shifted=copies.get(id(shifted)),
            positions=positions,
            ignored=ignored,
            num_given=int((of_rows != ignored).sum()) if of_rows is not None else 0,
        )
        args = tuple(copies.get(id(value), value) for value in args)
        kwargs = {name: copies.get(id(value), value) for name, value in kwargs.items()}
        return found, args, kwargs

    @property
    def is_training(self) -> bool:
        """Whether a loss is asked for."""
        return self.labels is not None or self.shifted is not None

    @property
    def num_left(self) -> int:
        """Labels that the loss is computed over; after `fill`, of the rows that are left."""
        targets = self._of_rows()
        return int((targets != self.ignored).sum()) if targets is not None else 0

    @property
    def num_dropped(self) -> int:
        """Labels that dropped rows had to predict."""
        return self.num_given - self.num_left if self.is_training else 0

    def answering(self, visual_mask: Tensor) -> Tensor:
        """Where a row's answer stands: from its first label behind its visual tokens on.

        The model has to produce that text itself, so no method may read it to select tokens:
        in training it would choose by the answer, which it cannot do when it generates.

        Args:
            visual_mask: [B, S] bool.

        Returns:
            [B, S] bool, False everywhere in rows without such a label.
        """
        targets = self._of_rows()
        if targets is None:
            return torch.zeros_like(visual_mask)
        is_label = torch.zeros_like(visual_mask)
        is_label[:, 1:] = (targets != self.ignored)[:, :-1].to(visual_mask.device)
        still_visual = visual_mask.flip(1).long().cumsum(dim=1).flip(1) > 0  # here or behind here
        return (is_label & ~still_visual).long().cumsum(dim=1) > 0

    def put_back(self, output: Any, rows: Tensor, keep_mask: Tensor) -> Any:
        """The base model's output at the prompt's columns; labels of dropped rows are taken out.

        Args:
            output: of the base model, `last_hidden_state` [B, L, D] first.
            rows: [B, L] columns that are left, PAD for fillers.
            keep_mask: [B, S] bool, the same as a mask.

        Returns:
            The output with `last_hidden_state` [B, S, D], zero at the columns that were dropped.

        Raises:
            UnsupportedModeError: logits are asked of a dropped column; or the host model computes a
                loss over the routers of all columns.
        """
        if self.is_training and getattr(output, "router_logits", None) is not None:
            raise UnsupportedModeError(
                "output_router_logits adds a loss over the experts of every prompt token, and a "
                "carved prefill has dropped some; set output_router_logits=False."
            )
        if self.positions is not None:
            _check_left(self.positions, keep_mask)
        self._fill(keep_mask)
        hidden = output[0]
        if hidden.shape[1] != rows.shape[1]:
            raise UnsupportedModeError(
                f"the decoder returned {hidden.shape[1]} rows where {rows.shape[1]} were left, so "
                "labels and logit positions cannot be matched to them; leave logits_to_keep unset."
            )
        whole = _at_columns(hidden, rows.to(hidden.device), keep_mask.shape[1])
        if isinstance(output, tuple):
            return (whole, *output[1:])
        output = copy.copy(output)
        output.last_hidden_state = whole
        return output

    def _of_rows(self) -> Tensor | None:
        """[B, S]: what each row has to predict."""
        if self.shifted is not None:
            return self.shifted
        if self.labels is None:
            return None
        return nn.functional.pad(self.labels[:, 1:], (0, 1), value=self.ignored)

    def _fill(self, keep_mask: Tensor) -> None:
        gone = ~keep_mask
        if self.shifted is not None:
            self.shifted.masked_fill_(gone.to(self.shifted.device), self.ignored)
        if self.labels is not None:
            gone = gone.to(self.labels.device)
            self.labels[:, 1:].masked_fill_(gone[:, :-1], self.ignored)


def _at_columns(hidden: Tensor, rows: Tensor, length: int) -> Tensor:
    """Rows [B, L, D] at their columns [B, S, D], zeros elsewhere; gradient flows through."""
    spare = torch.where(rows == PAD, length, rows)  # fillers meet in a column that is cut off
    index = spare.unsqueeze(-1).expand_as(hidden)
    whole = hidden.new_zeros(hidden.shape[0], length + 1, hidden.shape[2])
    return whole.scatter(1, index, hidden)[:, :length]


def refuse_labels(inputs: Mapping[str, Any]) -> None:
    """A model whose base is itself takes logits and loss of the rows that are left.

    Raises:
        UnsupportedModeError: it is asked for something by column.
    """
    asked = [name for name in ("labels", "shift_labels") if inputs.get(name) is not None]
    if isinstance(inputs.get("logits_to_keep"), Tensor):
        asked.append("logits_to_keep")
    if asked:
        raise UnsupportedModeError(
            f"{' and '.join(asked)} count columns of the whole prompt, and this model computes its "
            "logits where foveate cannot put rows back; compute the loss outside foveate.attach."
        )


def last_rows(output: Any, count: Any) -> Any:
    """The base model's output with its last rows alone, where it was told how many are wanted.

    Gemma 4 tells its base model, and takes an output that is shorter than the prompt for cut.

    Args:
        output: of the base model, `last_hidden_state` [B, L, D] first.
        count: `logits_to_keep` of its call; anything but a positive number leaves the output as is.
    """
    if not isinstance(count, int) or count <= 0 or output[0].shape[1] <= count:
        return output
    last = output[0][:, -count:]
    if isinstance(output, tuple):
        return (last, *output[1:])
    output = copy.copy(output)
    output.last_hidden_state = last
    return output


def _check_left(positions: Tensor, keep_mask: Tensor) -> None:
    """Refuse logits of what is not there any more."""
    batch, length = keep_mask.shape
    positions = positions.to(keep_mask.device)
    if positions.dtype == torch.bool:
        asked = positions.expand(batch, length)
    else:
        asked = torch.zeros_like(keep_mask)
        columns = torch.where(positions < 0, positions + length, positions)
        asked.scatter_(1, columns.expand(batch, columns.shape[-1]), True)
    missing = (asked & ~keep_mask).nonzero()
    if len(missing):
        sample, column = missing[0].tolist()
        raise UnsupportedModeError(
            f"logits_to_keep asks for {len(missing)} positions that were dropped (first: column "
            f"{column} of sample {sample}), which have no logits; ask for text positions, or keep "
            "every token with keep_ratio=1.0."
        )
