"""SparseVLM: text tokens rate the image, its rank sets the pace (Zhang et al. 2410.04417)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from foveate.carve.method import Method, Need, Step
from foveate.core.plan import KeepPlan
from foveate.core.rank import top_k
from foveate.core.relevance import text_similarity
from foveate.core.schedule import geometric_counts, spans_of
from foveate.core.similarity import cosine
from foveate.core.visual import VisualTokens
from foveate.errors import MethodError


@dataclass(frozen=True, kw_only=True)
class SparseVlm(Method):
    """Text-guided pruning in several layers, adaptive by rank, with token recycling.

    Raters are the text tokens whose mean similarity to the image is at least the average; a token's
    score is the attention raters give it, mean over heads and raters. At each step in proportion to
    (N - rank P) tokens may go, P being the attention of raters to the image, in numbers that fit
    the budget: a step of full rank leaves what the schedule says, one of lower rank leaves less,
    and the last step takes up the difference, so that the mean over the layers from the first step
    on is the budget. Of the tokens cut, the best share is clustered by density peaks and comes back
    as cluster means.

    The paper's code has fixed counts for three budgets; this follows the paper. Its clusters add up
    their members; here they average them, as everywhere in foveate.

    Args:
        prune_layer: of the first step; None takes the layers of the paper (2, 6, 15 and 19 of 32,
            in proportion).
        recycled: share of the cut tokens that may come back, tau in the paper.
        cluster_fraction: clusters for each recycled token, theta in the paper.
    """

    name = "sparsevlm"
    summary = "text tokens rate the image in several layers; what is cut comes back as clusters"
    paper = "arXiv:2410.04417"
    fidelity = (
        "differs from the authors' code at Gumpest/SparseVLMs@26a5f48: raters at every step by "
        "cosine, attention of the layer before, one cluster fewer, by cosine"
    )

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
        return frozenset({"text", "text_attention"})

    def layers(self, num_layers: int, first_layer: int) -> tuple[int, ...]:
        if self.prune_layer is not None:
            return super().layers(num_layers, first_layer)
        least = max(1, first_layer)
        found = {max(least, round(num_layers * layer / 32)) for layer in (2, 6, 15, 19)}
        return tuple(sorted(layer for layer in found if layer < num_layers))

    def keeps(
        self, keep: int, num_tokens: int, layers: Sequence[int], num_layers: int
    ) -> tuple[int, ...]:
        spans = spans_of(layers, num_layers)
        return geometric_counts(keep * sum(spans), num_tokens, spans)

    def adapt(
        self, visual: VisualTokens, keeps: Sequence[int], step: Step, num_layers: int
    ) -> tuple[int, ...]:
        spans = spans_of(step.layers, num_layers)
        spent = sum(n * span for n, span in zip(visual.counts, spans, strict=False))
        total = sum(n * span for n, span in zip(keeps, spans, strict=True))
        if step.number == len(spans) - 1:
            left = (total - spent) // spans[-1]
            return (max(1, min(left, visual.num_tokens)),) * visual.num_images
        n, planned = visual.num_tokens, keeps[step.number]
        raters = self._raters(visual)
        assert visual.text_attention is not None
        found = []
        for attention, rater in zip(visual.text_attention, raters, strict=True):
            most = min(int(rater.sum()), n)  # the largest rank there can be
            rank = int(torch.linalg.matrix_rank(attention[rater].double())) if most else 0
            pace = (n - planned) / max(1, n - most)
            found.append(max(1, min(n, n - round(pace * (n - rank)))))
        return tuple(found)

    def plan(self, visual: VisualTokens, keep: int) -> KeepPlan:
        assert visual.text_attention is not None
        raters = self._raters(visual)
        weights = raters / raters.sum(dim=1, keepdim=True).clamp_min(1)
        score = (visual.text_attention * weights.unsqueeze(-1)).sum(dim=1)  # [G, N]
        n = visual.num_tokens
        # Slots for clusters come out of the budget; each needs at least one cut token.
        pool = int(self.recycled * (n - keep))
        clusters = min(int(self.cluster_fraction * pool), keep - 1)
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
        wide = again.unsqueeze(-1).expand(-1, -1, visual.hidden.shape[-1])
        centres, owner = density_peaks(visual.hidden.gather(1, wide), clusters)
        is_member = torch.ones_like(again, dtype=torch.bool).scatter_(1, centres, False)
        shape = (visual.num_images, -1)
        return KeepPlan(
            num_tokens=n,
            keep_idx=torch.cat([best, again.gather(1, centres)], dim=1).sort(dim=-1).values,
            merge_src=again[is_member].view(shape),
            merge_dst=again.gather(1, owner)[is_member].view(shape),
            scores={"raters": score},
        )

    @staticmethod
    def _raters(visual: VisualTokens) -> Tensor:
        """Text tokens whose similarity to the image is at least the average. [G, T] bool"""
        assert visual.text_mask is not None
        similarity = text_similarity(visual).mean(dim=-1)  # [G, T]
        count = visual.text_mask.sum(dim=1, keepdim=True).clamp_min(1)
        average = similarity.sum(dim=1, keepdim=True) / count
        return (similarity >= average) & visual.text_mask


def density_peaks(x: Tensor, num_clusters: int, neighbours: int = 5) -> tuple[Tensor, Tensor]:
    """Cluster by density peaks: centres are dense and far from anything denser.

    Args:
        x: [G, n, D].
        num_clusters: 1 <= num_clusters <= n.
        neighbours: that the density is estimated from.

    Returns:
        (centres [G, C] int64, ascending; owner [G, n]: the centre most similar to each point, of a
        centre itself).
    """
    distance = (1.0 - cosine(x, x)).clamp_min(0)  # [G, n, n]
    n = distance.shape[-1]
    nearest = distance.topk(min(neighbours, n), largest=False).values
    density = (-nearest.square().mean(dim=-1)).exp()  # [G, n]
    # Ties in density go to the lower index, so that equals do not all count as peaks.
    order = torch.arange(n, device=x.device)
    denser = (density.unsqueeze(1) > density.unsqueeze(2)) | (
        (density.unsqueeze(1) == density.unsqueeze(2)) & (order[None, :] < order[:, None])
    )
    to_denser = distance.masked_fill(~denser, torch.inf).amin(dim=-1)
    highest = distance.amax(dim=-1)
    to_denser = torch.where(torch.isinf(to_denser), highest, to_denser)
    centres = top_k(density * to_denser, num_clusters).sort(dim=-1).values
    near = distance.gather(2, centres.unsqueeze(1).expand(-1, n, -1)).argmin(dim=-1)
    owner = centres.gather(1, near).scatter(1, centres, centres)
    return centres, owner
