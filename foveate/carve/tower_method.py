"""What a method inside the vision tower is: it merges tokens between layers, or shrinks the image.

Both leave groups of visual tokens that are one and the same; the language model reads one of each.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from foveate.carve.method import Method
from foveate.core.plan import KeepPlan, merge_to_owners
from foveate.core.visual import VisualTokens
from foveate.errors import MethodError


@dataclass(frozen=True, kw_only=True)
class TowerMethod(Method):
    """A method that acts before the visual tokens exist; `plan` reads off what it did."""

    where = "vision_tower"
    default_layer = 0

    def plan(self, visual: VisualTokens, keep: int) -> KeepPlan:
        if visual.owners is None:
            raise MethodError(
                f"{self.name} acts inside the vision tower, which did not run while it was "
                "attached; pass pixel_values."
            )
        return merge_to_owners(visual.owners, self.num_owners(visual.owners, keep))

    def num_owners(self, owners: Tensor, keep: int) -> int:
        """How many tokens of each image own themselves, [G, N] -> at most the budget `keep`."""
        return keep


@dataclass(frozen=True, kw_only=True)
class TowerMerging(TowerMethod):
    """Merges tokens between the layers of the tower.

    Class attributes:
        reads_importance: whether `match` looks at the attention that tokens receive.
    """

    reads_importance: ClassVar[bool] = True

    def merges(self, num_tokens: int, keep: int, num_layers: int) -> tuple[int, ...]:
        """How many tokens go behind each of `num_layers` layers; they sum to num_tokens - keep.

        As many behind every layer, the first ones one more where it must be.
        """
        each, more = divmod(num_tokens - keep, num_layers)
        return tuple(each + (i < more) for i in range(num_layers))

    @abstractmethod
    def match(self, keys: Tensor, importance: Tensor | None, count: int) -> tuple[Tensor, Tensor]:
        """Which tokens go, and into which.

        Args:
            keys: [G, n, Dk] of the layer, heads averaged.
            importance: [G, n] attention each token receives there (of CLS, or the mean); None
                unless `reads_importance`.
            count: tokens to merge away, at most n // 2.

        Returns:
            (src [G, count], dst [G, count]) int64; no dst is a src.
        """


@dataclass(frozen=True, kw_only=True)
class TowerResizing(TowerMethod):
    """Makes the image smaller before the tower sees it."""

    exact_budget = False

    def num_owners(self, owners: Tensor, keep: int) -> int:
        every = torch.arange(owners.shape[1], device=owners.device)
        return int((owners[0] == every).sum())

    @abstractmethod
    def grid(self, rows: int, columns: int, keep: int) -> tuple[int, int]:
        """Rows and columns of the smaller token grid, at most `keep` in all."""
