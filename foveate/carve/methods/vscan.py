"""VScan: local and global attention of the tower, then a cut halfway down (arXiv:2505.22654)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from foveate.carve.method import Method, Step
from foveate.carve.needs import Need
from foveate.core.plan import KeepPlan, keep_only
from foveate.core.rank import descending_order, others, top_k
from foveate.core.rows import gather_rows
from foveate.core.schedule import fitted_counts, spans_of
from foveate.core.similarity import best_match
from foveate.core.visual import VisualTokens
from foveate.errors import MethodError

WINDOW = 6  # tokens a side

_OF_THE_TOWER: frozenset[Need] = frozenset({"vision_attention", "vision_attention_early"})


@dataclass(frozen=True, kw_only=True)
class VScan(Method):
    """Two scans of the vision tower, merging, and a second cut by the question (Zhang et al. 2025).

    Behind the tower, half of the budget is the tokens of most attention inside each 6 x 6 window,
    by the CLS token in a shallow layer of the tower (without one: attention received); the other
    half those of most attention in the last used layer. Every other token is averaged into the kept
    one whose cosine behind the projector is highest. Halfway down the language model, the last
    prompt token's attention chooses a third of those, as in PyramidDrop.

    The budget is the mean over the layers, which in the authors' 64 tokens is 96 before layer 16 of
    32 and 32 behind. A window gets floor(floor(K / 2) / windows) tokens; what that leaves of K / 2
    is lost in the authors' code, so that fewer than K tokens are kept: floor(K / 2) modulo N // 36
    of them go, none at their own budgets. Images that are not made of whole windows have narrower
    ones at the border, those without a single token grid runs of 36 tokens in reading order.

    Args:
        second_share: of the first cut's tokens that the second leaves.
        shallow_layer: of the tower, from 0; None is 5 of 24 (the sixth), in proportion.
        ranks_by: of the second cut, see PyramidDrop.
        fill: give what the windows leave to the global half, so that exactly K tokens are kept.
        where: "llm", as above, or "encoder": the first cut alone, which is then the whole budget.
    """

    name = "vscan"
    summary = "scans the tower locally and globally and merges; then cuts by the question"
    paper = "arXiv:2505.22654"
    fidelity = (
        "as the authors' code at Tencent/SelfEvolvingAgent@a82450e, which may keep fewer than its "
        "budget (fill)"
    )

    second_share: float = 1 / 3
    shallow_layer: int | None = None
    fill: bool = False
    ranks_by: Literal["ahead", "before"] = "ahead"
    early_cache: Literal["compact", "full"] = "full"
    where: Literal["llm", "encoder"] = "llm"  # type: ignore[misc]
    default_layer = 0
    merges_tokens = True
    needs_before_prune_layer = False

    def __post_init__(self) -> None:
        if not 0.0 < self.second_share <= 1.0:
            raise MethodError(f"second_share={self.second_share} is outside (0, 1].")
        if self.shallow_layer is not None and self.shallow_layer < 0:
            raise MethodError(f"shallow_layer={self.shallow_layer} is negative; use 0 or more.")
        super().__post_init__()

    @property
    def exact_budget(self) -> bool:  # type: ignore[override]
        return self.fill

    @property
    def needs(self) -> frozenset[Need]:
        return _OF_THE_TOWER | {self._question} if self.where == "llm" else _OF_THE_TOWER

    @property
    def ranks_by_attention(self) -> bool:
        return self.where == "llm"

    def early_tower_layer(self, num_layers: int) -> int:
        layer = num_layers * 5 // 24 if self.shallow_layer is None else self.shallow_layer
        if layer >= num_layers:
            raise MethodError(
                f"shallow_layer={layer} is outside the {num_layers} layers of the vision tower; "
                f"use {num_layers - 1} or less."
            )
        return layer

    def layers(self, num_layers: int, first_layer: int) -> tuple[int, ...]:
        (first,) = super().layers(num_layers, first_layer)
        second = max(num_layers // 2, first + 1)
        if self.where == "encoder" or second >= num_layers:
            return (first,)
        return (first, second)

    def steps(self, num_layers: int, first_layer: int) -> tuple[Step, ...]:
        first, *second = super().steps(num_layers, first_layer)
        return (
            replace(first, needs=_OF_THE_TOWER),
            *(replace(step, needs=frozenset({self._question})) for step in second),
        )

    @property
    def _question(self) -> Need:
        return "attention_ahead" if self.ranks_by == "ahead" else "attention"

    def keeps(
        self, keep: int, num_tokens: int, layers: Sequence[int], num_layers: int
    ) -> tuple[int, ...]:
        if len(layers) == 1:
            return (keep,)
        spans = spans_of(layers, num_layers)
        total = keep * sum(spans)
        first = total / (spans[0] + self.second_share * spans[1])
        return fitted_counts([first, self.second_share * first], total, num_tokens, spans)

    def plan(self, visual: VisualTokens, keep: int) -> KeepPlan:
        if visual.vision_attention_early is None:
            assert visual.attention is not None
            question = visual.attention.mean(dim=1)
            return keep_only(top_k(question, keep), visual.num_tokens, {"attention": question})
        assert visual.vision_attention is not None
        n, deep = visual.num_tokens, visual.vision_attention
        half, windows = keep // 2, self._windows(visual)
        each = half // (windows.amax(dim=1, keepdim=True) + 1)  # [G, 1]
        local = rank_in_group(visual.vision_attention_early, windows) < each
        lost = 0 if self.fill else half % max(1, n // WINDOW**2)
        kept = top_k(deep.masked_fill(local, torch.inf), keep - lost).sort(dim=-1).values
        sources = others(kept, n)
        _, nearest = best_match(
            gather_rows(visual.hidden, sources), gather_rows(visual.hidden, kept)
        )
        return KeepPlan(
            num_tokens=n,
            keep_idx=kept,
            merge_src=sources,
            merge_dst=kept.gather(1, nearest),
            scores={"local": visual.vision_attention_early, "global": deep},
        )

    def _windows(self, visual: VisualTokens) -> Tensor:
        """The window that each token is in, [G, N] int64."""
        place = torch.arange(visual.num_tokens, device=visual.hidden.device)
        found = []
        for grid in visual.grids or (None,) * visual.num_images:
            if grid is None:
                found.append(place // WINDOW**2)
                continue
            columns = grid[1]
            across = -(-columns // WINDOW)
            found.append(place // columns // WINDOW * across + place % columns // WINDOW)
        return torch.stack(found)


def rank_in_group(scores: Tensor, group: Tensor) -> Tensor:
    """0-based rank of each score [G, N] among those of its group [G, N] int64. [G, N]"""
    by_score = descending_order(scores)
    by_group = torch.sort(group.gather(1, by_score), dim=-1, stable=True)
    order = by_score.gather(1, by_group.indices)  # groups one after the other, best first
    place = torch.arange(scores.shape[1], device=scores.device).expand_as(order)
    is_first = torch.ones_like(order, dtype=torch.bool)
    is_first[:, 1:] = by_group.values[:, 1:] != by_group.values[:, :-1]
    start = torch.where(is_first, place, 0).cummax(dim=-1).values
    return torch.empty_like(order).scatter_(1, order, place - start)
