"""ApET: what a few basis tokens approximate worst (Ma et al., arXiv:2602.19870)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from foveate.carve.method import Method
from foveate.carve.needs import Need
from foveate.core.plan import KeepPlan
from foveate.core.rank import descending_order, others
from foveate.core.rows import gather_rows
from foveate.core.similarity import best_match
from foveate.core.visual import VisualTokens
from foveate.errors import MethodError


@dataclass(frozen=True, kw_only=True)
class ApET(Method):
    """Approximation error, without any attention.

    A basis S of k tokens is chosen farthest point by farthest point (Euclid), from a first one
    drawn at random. Token i has the error e_i = |x_i - x_i S^T G^-1 S|, G = S S^T + 1e-5 I (more
    where float32 would round that away). The K tokens of largest error stay, but the k of least
    error among them give their places to the basis; every token that is not kept is averaged into
    the kept one (none of the basis) of highest cosine.

    `where` says which of the authors' two cuts it is. "encoder": behind the tower, on its features
    before the projector; basis tokens take their places in the order of places. "llm": in the
    residual stream halfway down; they take them in the order of errors. Both are
    `apet:50%+apet(where=llm)`.

    Args:
        basis_tokens: k, at most one less than is kept.
        first_token: of the basis; None draws it, by `serials`.
        where: see above.
    """

    name = "apet"
    summary = "keeps what a few basis tokens approximate worst, merges the rest"
    paper = "arXiv:2602.19870"
    fidelity = (
        "as the authors' code at MaQianKun0/ApET@70cc01b, but not rounded to float16, and merged "
        "behind the projector, which takes one row a token"
    )

    basis_tokens: int = 10
    first_token: int | None = None
    where: Literal["encoder", "llm"] = "encoder"  # type: ignore[misc]
    needs_before_prune_layer: ClassVar[bool] = False
    merges_tokens = True

    def __post_init__(self) -> None:
        if self.basis_tokens < 1:
            raise MethodError(f"basis_tokens={self.basis_tokens} is below 1; raise it.")
        if self.first_token is not None and self.first_token < 0:
            raise MethodError(f"first_token={self.first_token} is negative; use 0 or more.")
        super().__post_init__()

    @property
    def needs(self) -> frozenset[Need]:
        drawn: frozenset[Need] = frozenset({"serials"} if self.first_token is None else set())
        return drawn | {"vision_features"} if self.where == "encoder" else drawn

    @property
    def default_layer(self) -> int:  # type: ignore[override]
        return 0

    def layers(self, num_layers: int, first_layer: int) -> tuple[int, ...]:
        if self.where == "llm" and self.prune_layer is None:
            return (max(first_layer, num_layers // 2),)
        return super().layers(num_layers, first_layer)

    def plan(self, visual: VisualTokens, keep: int) -> KeepPlan:
        x = visual.hidden if self.where == "llm" else visual.vision_features
        assert x is not None
        x, n = x.float(), visual.num_tokens
        num_basis = min(self.basis_tokens, keep - 1)
        basis = farthest_rows(x, self._first(visual), num_basis)  # [G, k]
        error = approximation_error(x, basis)
        order = descending_order(error)[:, :keep]
        targets, given_up = order.tensor_split([keep - num_basis], dim=1)
        if self.where == "encoder":
            given_up = given_up.sort(dim=-1).values
        # Kept places ascend, and each knows whose row it carries.
        places, by_place = torch.cat([targets, given_up], dim=1).sort(dim=-1)
        values = torch.cat([targets, basis], dim=1).gather(1, by_place)
        sources = others(order, n)
        targets = targets.sort(dim=-1).values
        _, nearest = best_match(gather_rows(x, sources), gather_rows(x, targets))
        return KeepPlan(
            num_tokens=n,
            keep_idx=places,
            merge_src=sources,
            merge_dst=targets.gather(1, nearest),
            scores={"approximation error": error},
            value_idx=values,
        )

    def _first(self, visual: VisualTokens) -> Tensor:
        """The first token of each image's basis, [G]."""
        n = visual.num_tokens
        if self.first_token is not None:
            if self.first_token >= n:
                raise MethodError(
                    f"first_token={self.first_token} is outside the {n} tokens of an image; use "
                    f"{n - 1} or less."
                )
            found = [self.first_token] * visual.num_images
        else:
            found = []
            for serial in visual.serials or range(visual.num_images):
                # On the CPU, so that the choice is the same on every device.
                generator = torch.Generator().manual_seed(serial)
                found.append(int(torch.randint(n, (1,), generator=generator)))
        return torch.tensor(found, device=visual.hidden.device)


def farthest_rows(x: Tensor, first: Tensor, count: int) -> Tensor:
    """Rows each farthest (Euclid) from those before it, from a given first one.

    Args:
        x: [G, N, D].
        first: [G] int64.
        count: 0 <= count <= N.

    Returns:
        [G, count] int64 in order of choice.
    """
    chosen = torch.empty(len(x), count, dtype=torch.long, device=x.device)
    nearest = torch.full(x.shape[:2], torch.inf, device=x.device)
    last = first
    for i in range(count):
        chosen[:, i] = last
        distance = (x - gather_rows(x, last[:, None])).square().sum(dim=-1)
        nearest = torch.minimum(nearest, distance)
        last = nearest.argmax(dim=-1)
    return chosen


def approximation_error(x: Tensor, basis: Tensor) -> Tensor:
    """Length of what the rows `basis` [G, k] leave of each row of x [G, N, D]. [G, N]"""
    s = gather_rows(x, basis)
    gram = s @ s.transpose(1, 2)
    if s.shape[1]:
        size = gram.diagonal(dim1=1, dim2=2).amax(dim=1)  # [G]
        # Between long copies 1e-5 is lost to rounding, and what is left has no inverse.
        ridge = (2 * torch.finfo(gram.dtype).eps * size).clamp_min(1e-5)
        gram = gram + torch.diag_embed(ridge[:, None].expand(-1, s.shape[1]))
    fitted = torch.linalg.solve(gram, s @ x.transpose(1, 2)).transpose(1, 2) @ s
    return (x - fitted).norm(dim=-1)
