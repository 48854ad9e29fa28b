"""CDPruner: a determinantal point process conditioned on the instruction (arXiv:2506.10967)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from foveate.carve.method import Method, Need, relevance_needs
from foveate.core.demand import Demand
from foveate.core.determinant import greedy_log_det, log_det_bytes
from foveate.core.pairs import Gram, Weighted
from foveate.core.plan import KeepPlan, keep_only
from foveate.core.relevance import Relevance, min_max, text_relevance
from foveate.core.visual import VisualTokens


@dataclass(frozen=True, kw_only=True)
class CdPruner(Method):
    """Greedy MAP of the DPP with kernel diag(r) L diag(r) (Zhang et al. 2025).

    L is the cosine similarity of the visual tokens, r their relevance to the instruction scaled to
    [0, 1]. The paper takes relevance from CLIP's text encoder, where a model has one; models load
    without it, so here it is read in the language model: by default the cosine with the prompt's
    text embeddings.

    Args:
        relevance: see core.relevance; the kinds that read attention need prune_layer 1 or more.
    """

    name = "cdpruner"
    summary = "keeps the most diverse tokens given their relevance to the question (DPP)"
    paper = "arXiv:2506.10967"
    fidelity = (
        "kernel and determinant as in the authors' code at Theia-4869/CDPruner@9541616; its "
        "relevance is minus the cosine of CLIP's two towers"
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
        norm = torch.linalg.vector_norm(visual.hidden, dim=-1, dtype=torch.float32)
        weight = relevance / norm.clamp_min(1e-12)
        # float64: what is left of near copies of chosen tokens is rounding in float32.
        kernel = Weighted(Gram(visual.hidden.double()), weight.double())
        chosen, _ = greedy_log_det(kernel, keep)
        return keep_only(chosen, visual.num_tokens, {"relevance": relevance})
