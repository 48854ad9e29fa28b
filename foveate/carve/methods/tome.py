"""ToMe: similar tokens merge inside the vision tower (Bolya et al., arXiv:2210.09461)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from foveate.carve.tower_method import TowerMerging
from foveate.core.rank import descending_order
from foveate.core.similarity import best_match


@dataclass(frozen=True, kw_only=True)
class ToMe(TowerMerging):
    """Bipartite soft matching between all layers of the tower, with proportional attention.

    Tokens are dealt alternately into two sets; each of the first finds the most similar of the
    second by its key, and the r most similar pairs merge into size-weighted means. Later layers add
    log(size) to the attention logits of a merged token. The paper merges between attention and the
    feed-forward block of each layer; hooks reach the place right behind it, so a layer's
    feed-forward block still runs on what its attention ran on.
    """

    name = "tome"
    summary = "merges similar tokens inside the vision tower, layer by layer"
    paper = "arXiv:2210.09461"
    fidelity = (
        "first layer with CLS as in the authors' code at facebookresearch/ToMe@af95e4b; without "
        "one that merges even into odd, and later layers deal in its own order"
    )

    reads_importance = False

    def match(self, keys: Tensor, importance: Tensor | None, count: int) -> tuple[Tensor, Tensor]:
        similarity, nearest = best_match(keys[:, 1::2], keys[:, ::2])  # odd into even
        closest = descending_order(similarity)[:, :count]
        return 2 * closest + 1, 2 * nearest.gather(1, closest)
