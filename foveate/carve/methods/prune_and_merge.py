"""Prune and Merge: unimportant tokens fold into important ones (Mao et al., arXiv:2503.23455)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from foveate.carve.tower_method import TowerMerging
from foveate.core.rank import descending_order
from foveate.core.rows import gather_rows
from foveate.core.similarity import best_match


@dataclass(frozen=True, kw_only=True)
class PruneAndMerge(TowerMerging):
    """Inside the vision tower the least important tokens go, each into the kept one most like it.

    The paper multiplies the tokens of a layer by a merge matrix M and restores the full set behind
    the tower by its pseudo-inverse, so that no place of the image is lost; M is set from the
    importance of tokens and then trained. Training-free, M averages each group, and its
    pseudo-inverse copies the mean back to every member: that is what leaves the tower here, and the
    language model reads one of each group. Importance is the attention a token receives (from CLS
    where there is one) instead of the paper's gradient-weighted attention.
    """

    name = "prune-and-merge"
    summary = "folds tokens of little attention into similar ones inside the vision tower"
    paper = "arXiv:2503.23455"
    fidelity = (
        "a training-free form; the authors' (prune_and_merge@ec64026) trains one matrix for a data "
        "set"
    )

    def match(
        self, keys: Tensor, importance: Tensor | None, count: int, *, has_cls: bool = True
    ) -> tuple[Tensor, Tensor]:
        assert importance is not None
        order = descending_order(importance)
        kept, gone = order[:, : order.shape[1] - count], order[:, order.shape[1] - count :]
        kept, gone = kept.sort(dim=-1).values, gone.sort(dim=-1).values
        _, nearest = best_match(
            gather_rows(keys, gone),
            gather_rows(keys, kept),
        )
        return gone, kept.gather(1, nearest)
