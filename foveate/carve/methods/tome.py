"""ToMe: similar tokens merge inside the vision tower (Bolya et al., arXiv:2210.09461)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from foveate.carve.tower_method import TowerMerging
from foveate.core.rank import descending_order
from foveate.core.similarity import best_match


@dataclass(frozen=True, kw_only=True)
class ToMe(TowerMerging):
    """Bipartite soft matching between all layers of the tower, with proportional attention.

    Tokens, a CLS token among them, are dealt alternately into two sets; each of the first finds the
    most similar of the second by its key, and the r most similar pairs merge into size-weighted
    means. The next layer deals what is left of the first set, then the second: in the order of
    their places after a CLS token, of their likeness without one. Later layers add log(size) to
    the attention logits of a merged token. The paper merges between attention and the
    feed-forward block of each layer; hooks reach the place right behind it, so a layer's
    feed-forward block still runs on what its attention ran on.
    """

    name = "tome"
    summary = "merges similar tokens inside the vision tower, layer by layer"
    paper = "arXiv:2210.09461"
    fidelity = (
        "pairs and values as in the authors' code at facebookresearch/ToMe@af95e4b, which merges "
        "between a layer's attention and its feed-forward block; this behind the layer"
    )

    reads_importance = False

    def match(
        self, keys: Tensor, importance: Tensor | None, count: int, *, has_cls: bool = True
    ) -> tuple[Tensor, Tensor]:
        src, dst, _ = self.match_and_order(keys, importance, count, has_cls=has_cls)
        return src, dst

    def match_and_order(
        self, keys: Tensor, importance: Tensor | None, count: int, *, has_cls: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        n, first = keys.shape[1], int(has_cls)  # CLS stands at an even place and never goes
        similarity, nearest = best_match(keys[:, first::2], keys[:, 1 - first :: 2])
        order = descending_order(similarity)
        closest, apart = order[:, :count], order[:, count:]
        if has_cls:
            apart = apart.sort(dim=-1).values  # or CLS would not stay in front
        targets = torch.arange(1 - first, n, 2, device=keys.device).expand(len(keys), -1)
        left = torch.cat([2 * apart + first, targets], dim=1)
        return 2 * closest + first, 2 * nearest.gather(1, closest) + 1 - first, left
