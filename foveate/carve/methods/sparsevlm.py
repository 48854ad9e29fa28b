"""SparseVLM: text tokens rate the image, its rank sets the pace (Zhang et al. 2410.04417)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from foveate.carve.method import Method, Step
from foveate.carve.needs import Need
from foveate.core.density_peaks import density_peaks
from foveate.core.plan import KeepPlan
from foveate.core.rank import top_k
from foveate.core.rows import gather_rows
from foveate.core.schedule import geometric_counts, spans_of
from foveate.core.visual import VisualTokens
from foveate.errors import MethodError


@dataclass(frozen=True, kw_only=True)
class SparseVlm(Method):
    """Text-guided pruning in several layers, adaptive by rank, with token recycling.

    Raters are chosen once, before the first decoder layer: text tokens t of above average
    mean_i softmax_t(x_i t^T), x_i being the image tokens. A token's score is the attention that
    raters give it, mean over heads and raters, in the layer whose output is cut. At each step in
    proportion to (N - rank P) tokens may go, P being the attention of raters to the image, in
    numbers that fit the budget: a step of full rank leaves what the schedule says, one of lower
    rank leaves less, but not so few that later ones could not spend the rest, and the last step
    takes up the difference, so that the mean over the layers from the first step on is the budget.
    Of the C tokens cut, the best int(recycled C) + 1 are clustered by density peaks into
    int(cluster_fraction of these) + 1 and come back as cluster means.

    The authors' first release keeps in proportion to the rank; their current one has fixed counts
    for three budgets. They hand clusters on behind the image; here one stands at its centre's
    place.

    Args:
        prune_layer: of the first step; None takes the output of layers 2, 6, 15 and 19 of 32, in
            proportion, as the paper does.
        recycled: share of the cut tokens that may come back, tau in the paper; 0 for none.
        cluster_fraction: clusters for each recycled token, theta in the paper.
    """

    name = "sparsevlm"
    summary = "text tokens rate the image in several layers; what is cut comes back as clusters"
    paper = "arXiv:2410.04417"
    fidelity = (
        "as the authors' code at Gumpest/SparseVLMs@26a5f48, counts by the rank as in their first "
        "release (@91fb6d9) and fitted to the budget; clusters stand at their centres' places"
    )
    merges_tokens = True

    recycled: float = 0.3
    cluster_fraction: float = 0.1
    early_cache: Literal["compact", "full"] = "full"

    def __post_init__(self) -> None:
        for setting in ("recycled", "cluster_fraction"):
            value = getattr(self, setting)
            if not 0.0 <= value <= 1.0:
                raise MethodError(f"{setting}={value} is outside [0, 1].")
        super().__post_init__()

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"entering", "text_attention"})

    def layers(self, num_layers: int, first_layer: int) -> tuple[int, ...]:
        if self.prune_layer is not None:
            return super().layers(num_layers, first_layer)
        # What layer l gives is cut, so that l + 1 is the first to see less.
        least = max(1, first_layer)
        found = {max(least, round(num_layers * layer / 32) + 1) for layer in (2, 6, 15, 19)}
        return tuple(sorted(layer for layer in found if layer < num_layers))

    def keeps(
        self, keep: int, num_tokens: int, layers: Sequence[int], num_layers: int
    ) -> tuple[int, ...]:
        spans = spans_of(layers, num_layers)
        return geometric_counts(keep * sum(spans), num_tokens, spans)

    def adapt(
        self, visual: VisualTokens, keeps: Sequence[int], step: Step, num_layers: int
    ) -> tuple[int, ...]:
        number, spans = step.number, spans_of(step.layers, num_layers)
        spent = sum(n * span for n, span in zip(visual.counts, spans, strict=False))
        left = sum(n * span for n, span in zip(keeps, spans, strict=True)) - spent
        n, planned = visual.num_tokens, keeps[number]
        later = sum(spans[number + 1 :])
        most = max(1, min(n, (left - later) // spans[number]))  # later layers keep a token
        if not later:
            return (most,) * visual.num_images
        # With fewer, no later step could spend what is left.
        least = min(most, math.ceil(left / (spans[number] + later)))
        assert visual.entering is not None
        assert visual.text_attention is not None
        raters = choose_raters(visual.entering)
        found = []
        for attention, rater in zip(visual.text_attention, raters, strict=True):
            # The largest rank there can be; that of all tokens says of none that it may go.
            full = min(int(rater.sum()), n - 1)
            rank = min(rank_of(attention[rater]), full) if full else 0
            pace = (n - planned) / max(1, n - full)
            found.append(max(least, min(most, n - round(pace * (n - rank)))))
        return tuple(found)

    def plan(self, visual: VisualTokens, keep: int) -> KeepPlan:
        assert visual.entering is not None
        assert visual.text_attention is not None
        raters = choose_raters(visual.entering)
        weights = raters / raters.sum(dim=1, keepdim=True).clamp_min(1)
        score = (visual.text_attention * weights.unsqueeze(-1)).sum(dim=1)  # [G, N]
        n = visual.num_tokens
        clusters, pool = self._clusters(n, keep)
        best = top_k(score, keep - clusters)
        if clusters == 0:
            empty = best[:, :0]
            return KeepPlan(
                num_tokens=n,
                keep_idx=best.sort(dim=-1).values,
                merge_src=empty,
                merge_dst=empty,
                scores={"raters": score},
            )
        again = top_k(score, keep - clusters + pool)[:, keep - clusters :]  # [G, pool]
        centres, owner = density_peaks(gather_rows(visual.hidden, again), clusters)
        is_member = torch.ones_like(again, dtype=torch.bool).scatter_(1, centres, False)
        shape = (visual.num_images, -1)
        return KeepPlan(
            num_tokens=n,
            keep_idx=torch.cat([best, again.gather(1, centres)], dim=1).sort(dim=-1).values,
            merge_src=again[is_member].view(shape),
            merge_dst=again.gather(1, owner)[is_member].view(shape),
            scores={"raters": score},
        )

    def _clusters(self, num_tokens: int, keep: int) -> tuple[int, int]:
        """How many of the budget are clusters, and how many cut tokens these are made of.

        Slots for clusters come out of the budget, and leave more to cut, so more clusters.
        """
        if not self.recycled:
            return 0, 0
        clusters, wanted, pool = -1, 0, 0
        while wanted != clusters:
            clusters, cut = wanted, num_tokens - keep + wanted
            pool = min(int(self.recycled * cut) + 1, cut)
            wanted = min(int(self.cluster_fraction * pool) + 1, pool, keep - 1)
        return clusters, pool


def choose_raters(entering: VisualTokens) -> Tensor:
    """Text tokens above the mean of mean_i softmax_t(x_i t^T). [G, T] bool

    Where none is above, as where there is one token, all real ones.

    Args:
        entering: images and text as they enter the first decoder layer.
    """
    assert entering.text is not None
    assert entering.text_mask is not None
    mask = entering.text_mask
    logits = entering.hidden.float() @ entering.text.float().transpose(1, 2)  # [G, N, T]
    shares = logits.masked_fill(~mask.unsqueeze(1), -torch.inf).softmax(dim=-1).mean(dim=1)
    count = mask.sum(dim=1, keepdim=True)
    is_above = (shares > shares.sum(dim=1, keepdim=True) / count) & mask
    return torch.where(is_above.any(dim=1, keepdim=True), is_above, mask)


def rank_of(attention: Tensor) -> int:
    """Rank of the raters' attention to the image, [R, N].

    In float32: in float64 what rounding made of dependent rows would be rank.
    """
    return int(torch.linalg.matrix_rank(attention.float()))
