"""PyramidDrop: a share of the image goes after each stage (Xing et al., arXiv:2410.17247)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from foveate.carve.method import staged_layers
from foveate.carve.methods.fastv import FastV
from foveate.carve.needs import Need
from foveate.core.schedule import geometric_counts, spans_of
from foveate.errors import MethodError


@dataclass(frozen=True, kw_only=True)
class PyramidDrop(FastV):
    """FastV in stages, by the attention of the last prompt token: N q, N q^2, N q^3 tokens in turn.

    The paper cuts behind a quarter, a half and three quarters of the layers with q = 0.5. Here the
    budget is the mean over the layers from the first cut on, and q follows from it. The attention
    is that of the layer about to run, by its own norm, queries and keys, over all that enters it:
    a little of that layer is worked out twice. The authors' code renumbers positions after each
    cut; ours keep theirs unless positions="renumbered".

    Args:
        prune_layer: of the first cut; None is a quarter of the layers. Later ones divide what is
            left evenly.
        stages: cuts.
        ranks_by: "ahead", as above, or "before": the attention of the layer before the cut, which
            costs nothing more.
    """

    name = "pyramiddrop"
    summary = "drops a share of the tokens after each of several stages, by attention"
    paper = "arXiv:2410.17247"
    fidelity = (
        "as the authors' code at Cooperx521/PyramidDrop@6444f30, which renumbers positions after "
        "each cut (positions=renumbered)"
    )

    stages: int = 3
    ranks_by: Literal["ahead", "before"] = "ahead"
    early_cache: Literal["compact", "full"] = "full"

    def __post_init__(self) -> None:
        if self.stages < 1:
            raise MethodError(f"stages={self.stages} is below 1; raise it.")
        super().__post_init__()

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"attention_ahead" if self.ranks_by == "ahead" else "attention"})

    def layers(self, num_layers: int, first_layer: int) -> tuple[int, ...]:
        first = self.prune_layer
        if first is None:
            first = max(1, first_layer, round(num_layers / (self.stages + 1)))
        return staged_layers(self, first, self.stages, num_layers, first_layer)

    def keeps(
        self, keep: int, num_tokens: int, layers: Sequence[int], num_layers: int
    ) -> tuple[int, ...]:
        spans = spans_of(layers, num_layers)
        return geometric_counts(keep * sum(spans), num_tokens, spans)
