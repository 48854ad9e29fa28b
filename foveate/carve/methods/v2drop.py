"""V2Drop: what a decoder layer hardly changes goes (arXiv:2509.01552)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from foveate.carve.method import Method
from foveate.carve.needs import Need
from foveate.core.plan import KeepPlan, keep_only
from foveate.core.rank import top_k
from foveate.core.schedule import geometric_counts, spans_of
from foveate.core.visual import VisualTokens
from foveate.errors import MethodError

_DEPTHS = (3 / 32, 17 / 32, 22 / 32)  # of the published cuts


@dataclass(frozen=True, kw_only=True)
class V2Drop(Method):
    """Token variation, without any attention: score_i = |h_i^l - h_i^(l-1)|.

    The variation is what the layer before the cut added to the residual stream. The published cuts
    lie before layers 3, 17 and 22 of 32 and leave a half, a quarter and one token. Here the budget
    is the mean over the layers from the first cut on: N q after the first, N q^2 after the second,
    and `last` tokens after the third, q following from it.

    Args:
        prune_layer: of the first cut; None is 3 of 32 in proportion. The others keep their
            distances in proportion.
        last: tokens that the third cut leaves.
    """

    name = "v2drop"
    summary = "drops in stages the tokens that a decoder layer changes least"
    paper = "arXiv:2509.01552"
    fidelity = (
        "as the authors' code at xuyang-liu16/V2Drop@219e03e; its counts (288, 144, 1 of 576) are "
        "those of a mean of 164, to within rounding (288, 142, 1)"
    )

    early_cache: Literal["compact", "full"] = "full"
    last: int = 1

    def __post_init__(self) -> None:
        if self.last < 1:
            raise MethodError(f"last={self.last} is below 1; raise it.")
        if self.prune_layer == 0:
            raise MethodError(
                f"{self.name} reads what the layer before prune_layer adds, and prune_layer=0 has "
                "none; use prune_layer=1 or more."
            )
        super().__post_init__()

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"layer_update"})

    def layers(self, num_layers: int, first_layer: int) -> tuple[int, ...]:
        first = self.prune_layer
        if first is None:
            first = max(1, first_layer, round(_DEPTHS[0] * num_layers))
        rest = (num_layers - first) / (1 - _DEPTHS[0])
        found = [first + round((depth - _DEPTHS[0]) * rest) for depth in _DEPTHS]
        if first < first_layer or found[-1] >= num_layers or len(set(found)) < len(found):
            raise MethodError(
                f"{self.name} cannot cut {len(_DEPTHS)} times from layer {first} on in "
                f"{num_layers} decoder layers, of which {first_layer} is the first allowed; change "
                "prune_layer."
            )
        return tuple(found)

    def keeps(
        self, keep: int, num_tokens: int, layers: Sequence[int], num_layers: int
    ) -> tuple[int, ...]:
        spans = spans_of(layers, num_layers)
        total = keep * sum(spans)
        last = min(self.last, keep)
        first = geometric_counts(total - last * spans[-1], num_tokens, spans[:-1])
        return (*first, min(last, first[-1]))

    def plan(self, visual: VisualTokens, keep: int) -> KeepPlan:
        assert visual.layer_update is not None
        variation = visual.layer_update.float().norm(dim=-1)
        return keep_only(top_k(variation, keep), visual.num_tokens, {"variation": variation})
