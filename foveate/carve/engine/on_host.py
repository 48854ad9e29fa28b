"""What the host knows of a prompt: read off the device once, so that nothing later waits for it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from foveate.core.layout import PAD, last_valid, leading_padding


@dataclass(frozen=True, kw_only=True, eq=False)
class OnHost:
    """The columns of one call's new tokens, on the host. Counts of all kinds follow from them.

    Args:
        visual: [B, S] bool, where they are visual.
        valid: [B, S] bool, which are real.
        asked: [B, S] bool, which are the prompt's: real, and no answer that is trained on.
        ids: [B, S] int64, None where they are not known.
    """

    visual: Tensor
    valid: Tensor
    asked: Tensor
    ids: Tensor | None = None

    @classmethod
    def read(
        cls, visual: Tensor, valid: Tensor, asked: Tensor | None, ids: Tensor | None
    ) -> OnHost:
        """Bring all of it over in one copy; the host waits for the device here.

        Args:
            visual, valid, ids: see OnHost, on any device.
            asked: None where it is `valid`.
        """
        parts = [visual, valid, *([asked] if asked is not None else [])]
        if visual.device.type != "cpu":
            ids_part = [ids] if ids is not None else []
            packed = torch.stack([p.to(visual.device).long() for p in (*parts, *ids_part)]).cpu()
            parts, ids = [p.bool() for p in packed[: len(parts)]], packed[-1] if ids_part else None
        return cls(
            visual=parts[0].cpu(),
            valid=parts[1].cpu(),
            asked=parts[-1 if asked is not None else 1].cpu(),
            ids=ids.cpu().long() if ids is not None else None,
        )

    @cached_property
    def num_visual(self) -> int:
        """Visual tokens of the batch."""
        return int(np.count_nonzero(self.visual.numpy()))

    @cached_property
    def last_asked(self) -> Tensor:
        """[B, 1] column of the last token of each row's prompt."""
        return last_valid(self.asked)[:, None]

    @cached_property
    def begun(self) -> Tensor:
        """[B, S] bool: False at the padding before a row's first token."""
        return ~leading_padding(self.valid | self.visual)

    @cached_property
    def num_begun(self) -> tuple[int, ...]:
        """Of each row, how many tokens it has behind its padding."""
        return tuple(self.begun.numpy().sum(axis=1).tolist())

    @cached_property
    def text(self) -> Tensor:
        """Columns of each row's text behind its first visual token, or of all its text if none is.

        Returns:
            [B, T] int64, ascending, PAD behind.
        """
        text = self.asked & ~self.visual
        behind = text & (self.visual.long().cumsum(dim=-1) > 0)
        chosen = torch.where(behind.any(dim=-1, keepdim=True), behind, text)
        order = torch.sort((~chosen).to(torch.uint8), dim=-1, stable=True).indices
        order = order[:, : int(chosen.sum(dim=-1).max())]
        return torch.where(chosen.gather(1, order), order, PAD)
