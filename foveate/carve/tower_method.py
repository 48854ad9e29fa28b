"""What a method inside the vision tower is: it merges tokens between layers, shrinks the image, or
leaves patches out.

All leave groups of visual tokens that are one and the same; the language model reads one of each.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from foveate.carve.method import Method, Step
from foveate.core.budget import BUDGET, Budget
from foveate.core.plan import KeepPlan, keep_only, merge_to_owners
from foveate.core.rank import others
from foveate.core.visual import VisualTokens
from foveate.errors import MethodError


@dataclass(frozen=True, kw_only=True)
class TowerMethod(Method):
    """A method that acts before the visual tokens exist; `plan` reads off what it did."""

    where = "vision_tower"
    default_layer = 0

    def plan(self, visual: VisualTokens, keep: int) -> KeepPlan:
        owners = self.read_owners(visual)
        return merge_to_owners(owners, self.num_owners(owners, keep))

    def num_owners(self, owners: Tensor, keep: int) -> int:
        """How many tokens of each image own themselves, [G, N] -> at most the budget `keep`."""
        return keep

    def read_owners(self, visual: VisualTokens) -> Tensor:
        """[G, N]: the token that stands for each one.

        Raises:
            MethodError: the tower did not run.
        """
        if visual.owners is None:
            raise MethodError(
                f"{self.name} acts inside the vision tower, which did not run while it was "
                "attached; pass pixel_values."
            )
        return visual.owners


@dataclass(frozen=True, kw_only=True)
class TowerMerging(TowerMethod):
    """Merges tokens between the layers of the tower.

    Class attributes:
        reads_importance: whether `match` looks at the attention that tokens receive.
    """

    reads_importance: ClassVar[bool] = True
    merges_tokens = True

    def merges(self, num_tokens: int, keep: int, num_layers: int) -> tuple[int, ...]:
        """How many tokens go behind each of `num_layers` layers; they sum to num_tokens - keep.

        As many behind every layer, the first ones one more where it must be.
        """
        each, more = divmod(num_tokens - keep, num_layers)
        return tuple(each + (i < more) for i in range(num_layers))

    @abstractmethod
    def match(
        self, keys: Tensor, importance: Tensor | None, count: int, *, has_cls: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Which tokens go, and into which.

        Args:
            keys: [G, n, Dk] of the layer, heads averaged, without a CLS token.
            importance: [G, n] attention each token receives there (of CLS, or the mean); None
                unless `reads_importance`.
            count: tokens to merge away, at most n // 2.
            has_cls: a CLS token stands before them.

        Returns:
            (src [G, count], dst [G, count]) int64; no dst is a src.
        """

    def match_and_order(
        self, keys: Tensor, importance: Tensor | None, count: int, *, has_cls: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`match`, and the order in which the next layer finds those that stay, [G, n - count].

        The tower does not mind: what a token is like no longer depends on where it stands.
        """
        src, dst = self.match(keys, importance, count, has_cls=has_cls)
        return src, dst, others(src, keys.shape[1])


@dataclass(frozen=True, kw_only=True)
class TowerResizing(TowerMethod):
    """Makes the image smaller before the tower sees it."""

    exact_budget = False
    merges_tokens = True

    def num_owners(self, owners: Tensor, keep: int) -> int:
        every = torch.arange(owners.shape[1], device=owners.device)
        return int((owners[0] == every).sum())

    @abstractmethod
    def grid(self, rows: int, columns: int, keep: int) -> tuple[int, int]:
        """Rows and columns of the smaller token grid, at most `keep` in all."""


@dataclass(frozen=True, kw_only=True)
class PatchDropping(TowerMethod):
    """Leaves patches out before the tower sees them; the picture says how many, not the budget."""

    exact_budget = False
    counts_itself = True

    def __post_init__(self) -> None:
        given = {name: getattr(self, name) for name in BUDGET if getattr(self, name) is not None}
        if given and given != {"keep_ratio": 1.0}:
            raise MethodError(
                f"{self.name} keeps as many tokens as the picture asks for, whatever the budget "
                f"({Budget(**given)}); leave keep_tokens, keep_ratio and keep_information unset, "
                "or keep_ratio at 100% (--keep 100%)."
            )
        super().__post_init__()

    @cached_property
    def budget(self) -> Budget:
        return Budget(keep_ratio=1.0)

    @abstractmethod
    def owners(self, patches: Tensor) -> Tensor:
        """For each patch of a picture the one that stays and stands for it, maybe itself.

        Args:
            patches: [R, C, P], the pixels of what becomes one visual token each.

        Returns:
            [R * C] int64, places in reading order.
        """

    def adapt(
        self, visual: VisualTokens, keeps: Sequence[int], step: Step, num_layers: int
    ) -> tuple[int, ...]:
        return tuple(self._stays(visual).sum(dim=1).tolist())

    def plan(self, visual: VisualTokens, keep: int) -> KeepPlan:
        stays = self._stays(visual)
        keep_idx = stays.nonzero()[:, 1].view(visual.num_images, -1)
        return keep_only(keep_idx, visual.num_tokens)

    def _stays(self, visual: VisualTokens) -> Tensor:
        """[G, N] bool: those that own themselves."""
        owners = self.read_owners(visual)
        return owners == torch.arange(visual.num_tokens, device=owners.device)
