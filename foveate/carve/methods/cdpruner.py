"""CDPruner: a determinantal point process conditioned on the instruction (arXiv:2506.10967)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from foveate.carve.method import Method
from foveate.carve.needs import Need, relevance_needs
from foveate.core.demand import Demand
from foveate.core.greedy.determinant import greedy_log_det, log_det_bytes
from foveate.core.greedy.pairs import Gram, Weighted
from foveate.core.plan import KeepPlan, keep_only
from foveate.core.relevance import Relevance, min_max, text_relevance
from foveate.core.similarity import inverse_length
from foveate.core.visual import VisualTokens


@dataclass(frozen=True, kw_only=True)
class CdPruner(Method):
    """Greedy MAP of the DPP with kernel diag(r) L diag(r) (Zhang et al. 2025).

    L is the cosine similarity of the visual tokens, r their relevance to the instruction scaled to
    [0, 1]. The authors take relevance from CLIP, whose patches are least like the text that names
    what they show: minus the cosine of its two towers. Models load without the text tower, so here
    relevance is another: by default the cosine with the prompt's embeddings where the language
    model reads both. `conditioned` takes any.

    Args:
        relevance: see core.relevance; the kinds that read attention need prune_layer 1 or more.
    """

    name = "cdpruner"
    summary = "keeps the most diverse tokens given their likeness to the prompt's embeddings (DPP)"
    paper = "arXiv:2506.10967"
    fidelity = (
        "kernel and determinant as in the authors' code at Theia-4869/CDPruner@9541616, relevance "
        "not: theirs is minus the cosine of CLIP's two towers, and no model loads the text tower; "
        "this one is the cosine in the language model"
    )
    where = "encoder"
    default_layer = 0

    relevance: Relevance = "similarity"

    @property
    def needs(self) -> frozenset[Need]:
        return relevance_needs(self.relevance)

    def demand(self, num_images: int, num_tokens: int, width: int, keep: int) -> Demand:
        return Demand(
            what=f"a Cholesky factor of {keep:,} x {num_tokens:,}",
            bytes=log_det_bytes(num_images, num_tokens, width, keep),
        )

    def plan(self, visual: VisualTokens, keep: int) -> KeepPlan:
        relevance = min_max(text_relevance(visual, self.relevance))  # [G, N]
        chosen = conditioned(visual.hidden, relevance, keep)
        return keep_only(chosen, visual.num_tokens, {"relevance": relevance})


def conditioned(hidden: Tensor, relevance: Tensor, keep: int) -> Tensor:
    """Greedy MAP of the DPP with kernel diag(r) L diag(r).

    Args:
        hidden: [G, N, D], L being their cosines.
        relevance: r [G, N], not negative.
        keep: 1 <= keep <= N.

    Returns:
        [G, keep] int64 in order of choice.
    """
    weight = relevance * inverse_length(hidden)
    # float64: what is left of near copies of chosen tokens is rounding in float32.
    kernel = Weighted(Gram(hidden.double()), weight.double())
    return greedy_log_det(kernel, keep)[0]
