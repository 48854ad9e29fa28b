"""MMTok: cover the text and the image with few tokens (Dong et al., arXiv:2508.18264)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from foveate.carve.method import Method, Need
from foveate.core.plan import KeepPlan, keep_only
from foveate.core.relevance import text_similarity
from foveate.core.similarity import cosine
from foveate.core.visual import VisualTokens
from foveate.errors import MethodError


@dataclass(frozen=True, kw_only=True)
class MmTok(Method):
    """Greedy maximum coverage f(M_tv, S) + alpha f(M_vv, S), f(M, S) = mean_i max_{j in S} M_ij.

    M_tv and M_vv are cosine similarities of text to visual and visual to visual tokens, each row
    made a distribution by a softmax with a temperature. The paper compares images before the
    projector and text behind it; here both are taken where the language model reads them.

    Args:
        alpha: weight of covering the image.
        text_temperature, vision_temperature: of the softmaxes.
    """

    name = "mmtok"
    summary = "covers text and image by the fewest tokens (greedy maximum coverage)"
    paper = "arXiv:2508.18264"
    fidelity = (
        "equation as in the authors' code at Ironieser/MMTok@d1522cd; that compares images before "
        "the projector and leaves padding patches out"
    )
    where = "encoder"
    default_layer = 0

    alpha: float = 0.5
    text_temperature: float = 0.02
    vision_temperature: float = 0.2

    def __post_init__(self) -> None:
        if self.alpha < 0 or min(self.text_temperature, self.vision_temperature) <= 0:
            raise MethodError(
                f"alpha={self.alpha}, text_temperature={self.text_temperature}, vision_temperature="
                f"{self.vision_temperature}; alpha must not be negative, temperatures positive."
            )
        super().__post_init__()

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"text"})

    def plan(self, visual: VisualTokens, keep: int) -> KeepPlan:
        assert visual.text_mask is not None
        mask = visual.text_mask
        of_text = (text_similarity(visual) / self.text_temperature).softmax(dim=-1)
        of_text = of_text * mask.unsqueeze(-1) / mask.sum(1).clamp_min(1)[:, None, None]
        of_image = cosine(visual.hidden, visual.hidden) / self.vision_temperature
        of_image = self.alpha * of_image.softmax(dim=-1) / visual.num_tokens
        chosen = greedy_coverage(torch.cat([of_text, of_image], dim=1), keep)
        return keep_only(chosen, visual.num_tokens)


def greedy_coverage(weights: Tensor, k: int) -> Tensor:
    """Choose `k` columns so that the sum over rows of the largest chosen entry grows fastest.

    Args:
        weights: [G, R, N], not negative.
        k: 1 <= k <= N.

    Returns:
        [G, k] int64 in order of choice, ties to the lower index.
    """
    num_sets, num_rows, _ = weights.shape
    sets = torch.arange(num_sets, device=weights.device)
    covered = weights.new_zeros(num_sets, num_rows, 1)
    chosen = torch.empty(num_sets, k, dtype=torch.long, device=weights.device)
    for i in range(k):
        gain = (weights - covered).clamp_min(0).sum(dim=1)  # [G, N]
        if i:
            gain.scatter_(1, chosen[:, :i], float("-inf"))
        chosen[:, i] = gain.argmax(dim=-1)
        covered = torch.maximum(covered, weights[sets, :, chosen[:, i]].unsqueeze(-1))
    return chosen
