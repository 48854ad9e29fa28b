"""Who reads ahead: text of prompts whose budgets are worth what it costs."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from foveate.carve.engine.call import Call
from foveate.carve.engine.setting import Setting

# Reading ahead is worth at most that share of an image's budget.
WORTH = 0.5


@dataclass(frozen=True, kw_only=True, eq=False)
class Readers:
    """Which rows of a batch's text read ahead. All on the host.

    Args:
        text: [B, S] bool, their columns.
        visual: [B, S] bool, columns of the visual tokens that they look at.
        costs: [B] token-layers that this takes.
    """

    text: Tensor
    visual: Tensor
    costs: Tensor

    @classmethod
    def of(cls, setting: Setting, call: Call, step: int, keep_mask: Tensor | None) -> Readers:
        """Everybody. Text that is an answer to train on does not read.

        A row costs one token-layer in each layer before the one that looks; there a visual token
        costs what its key is of a layer's weights, and the last row of text a whole one.

        Args:
            setting: the run's parts.
            call: whose prompts they are.
            step: layer of the step that asks.
            keep_mask: [B, S] bool, what earlier steps left; None for all.
        """
        known, layer = call.known, setting.foresight[step]
        visual = known.visual if keep_mask is None else known.visual & keep_mask.cpu()
        text = known.asked & ~known.visual
        costs = layer * text.sum(dim=1) + setting.one_query[layer].share * visual.sum(dim=1) + 1
        return cls(text=text, visual=visual, costs=costs)

    def worth(self, budgets: Tensor) -> Readers:
        """Those whose prompts have text, and `budgets` [B] in token-layers that are worth it."""
        is_worth = self.text.any(dim=1) & (self.costs <= WORTH * budgets)
        return Readers(
            text=self.text & is_worth[:, None],
            visual=self.visual & is_worth[:, None],
            costs=self.costs * is_worth,
        )
