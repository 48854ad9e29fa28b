"""VisionZip: dominant tokens, and contextual ones merged from the rest (arXiv:2412.04467)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from foveate.carve.method import Method
from foveate.carve.needs import Need
from foveate.core.layout import sent
from foveate.core.plan import KeepPlan
from foveate.core.rank import others, top_k
from foveate.core.rows import gather_rows
from foveate.core.similarity import best_match
from foveate.core.visual import VisualTokens
from foveate.errors import MethodError


@dataclass(frozen=True, kw_only=True)
class VisionZip(Method):
    """Text-blind selection behind the vision tower (Yang et al. 2024).

    Dominant tokens are those the CLS token attends to most (without a CLS token: those that
    receive most attention on average), in the tower's last used layer, mean over heads. Of the
    R others every floor(R / Kc)-th from the first becomes one of Kc contextual tokens; every other
    one goes to the contextual token whose key (mean over heads) is most similar, and

        contextual token = target + mean of its sources.

    The authors merge before the projector, and hand the CLS token on within the budget (their 64
    are it, 53 patches and 10 contextual ones). Here tokens merge where the language model reads
    them: a family's projector may join neighbours, norm or cut, and takes no token that is two. And
    no prompt has a place for CLS, so the budget is all of patches, one dominant one more.

    Args:
        contextual_fraction: share of the budget that is contextual, in [0, 1]; 10 of 64 in the
            paper.
    """

    name = "visionzip"
    summary = "keeps what the vision tower attends to, merges the rest by its keys"
    paper = "arXiv:2412.04467"
    fidelity = (
        "as the authors' code at dvlab-research/VisionZip@3151f6d, but merged behind the projector "
        "(theirs before), and a patch more in place of the CLS token that theirs hands on"
    )
    where = "encoder"
    default_layer = 0
    merges_tokens = True

    contextual_fraction: float = 10 / 64

    def __post_init__(self) -> None:
        if not 0.0 <= self.contextual_fraction <= 1.0:
            raise MethodError(f"contextual_fraction={self.contextual_fraction} is outside [0, 1].")
        super().__post_init__()

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"vision_attention", "vision_keys"})

    def plan(self, visual: VisualTokens, keep: int) -> KeepPlan:
        assert visual.vision_attention is not None
        assert visual.vision_keys is not None
        n = visual.num_tokens
        num_contextual = round(self.contextual_fraction * keep)
        num_rest = n - keep + num_contextual
        step = num_rest // max(1, num_contextual)
        dominant = top_k(visual.vision_attention, keep - num_contextual)  # [G, Kd]
        rest = others(dominant, n)  # [G, N - Kd]
        is_source = torch.ones(num_rest, dtype=torch.bool)
        if num_contextual:
            is_source[: num_contextual * step : step] = False
        order = torch.sort(is_source.to(torch.uint8), stable=True).indices  # known to the host
        rest = rest[:, sent(order, rest.device)]
        targets, sources = rest[:, :num_contextual], rest[:, num_contextual:]
        keep_idx = torch.cat([dominant, targets], dim=1).sort(dim=-1).values
        scores = {"vision attention": visual.vision_attention}
        if not num_contextual:
            sources = sources[:, :0]
            return KeepPlan(
                num_tokens=n,
                keep_idx=keep_idx,
                merge_src=sources,
                merge_dst=sources,
                scores=scores,
            )
        keys = visual.vision_keys
        _, nearest = best_match(
            gather_rows(keys, sources),
            gather_rows(keys, targets),
        )
        return KeepPlan(
            num_tokens=n,
            keep_idx=keep_idx,
            merge_src=sources,
            merge_dst=targets.gather(1, nearest),
            scores=scores,
            adds=True,
        )
