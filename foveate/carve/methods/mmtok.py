"""MMTok: cover the text and the image with few tokens (Dong et al., arXiv:2508.18264)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from foveate.carve.method import Method
from foveate.carve.needs import Need
from foveate.core.demand import Demand
from foveate.core.greedy.coverage import greedy_coverage
from foveate.core.greedy.pairs import ROWS
from foveate.core.plan import KeepPlan, keep_only
from foveate.core.similarity import cosine, self_cosine
from foveate.core.visual import VisualTokens
from foveate.errors import MethodError


@dataclass(frozen=True, kw_only=True)
class MmTok(Method):
    """Greedy maximum coverage f(M_tv, S) + alpha f(M_vv, S), f(M, S) = mean_i max_{j in S} M_ij.

    M_tv and M_vv are cosine similarities of text to visual and visual to visual tokens, each row
    made a distribution by a softmax with a temperature. Text is compared where the language model
    reads both, the image with itself before the projector, as the vision tower leaves it.

    Args:
        alpha: weight of covering the image.
        text_temperature, vision_temperature: of the softmaxes. The authors have 0.02 and 0.2 for
            LLaVA, 0.01 and 0.2 for Qwen2.5-VL.
        compare: the image "before" the projector, or "behind" it, where no vision tower needs to be
            read.
    """

    name = "mmtok"
    summary = "covers text and image by the fewest tokens (greedy maximum coverage)"
    paper = "arXiv:2508.18264"
    fidelity = (
        "as the authors' code at Ironieser/MMTok@d1522cd for LLaVA (for Qwen2.5-VL theirs has "
        "text_temperature=0.01), but of all text behind the image, not its keywords, and with "
        "padding patches, where there are some"
    )
    where = "encoder"
    default_layer = 0

    alpha: float = 0.5
    text_temperature: float = 0.02
    vision_temperature: float = 0.2
    compare: Literal["before", "behind"] = "before"

    def __post_init__(self) -> None:
        if self.alpha < 0 or min(self.text_temperature, self.vision_temperature) <= 0:
            raise MethodError(
                f"alpha={self.alpha}, text_temperature={self.text_temperature}, vision_temperature="
                f"{self.vision_temperature}; alpha must not be negative, temperatures positive."
            )
        super().__post_init__()

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"text"} if self.compare == "behind" else {"text", "vision_features"})

    def demand(self, num_images: int, num_tokens: int, width: int, keep: int) -> Demand:
        # One image at a time.
        return Demand(
            what=f"the likeness of all {num_tokens:,} x {num_tokens:,} pairs",
            bytes=4 * num_tokens**2 + 4 * num_tokens * width,
            instead="use divprune, which holds no pairs, or send smaller images",
        )

    def plan(self, visual: VisualTokens, keep: int) -> KeepPlan:
        # One image at a time: its pairs of tokens are the largest thing here.
        chosen = [
            greedy_coverage(self.covers(visual, image), keep) for image in range(visual.num_images)
        ]
        return keep_only(torch.stack(chosen), visual.num_tokens)

    def covers(self, visual: VisualTokens, image: int) -> Tensor:
        """M_tv beside M_vv of an image, turned and weighted as in f. [N, T + N] float32"""
        assert visual.text is not None
        assert visual.text_mask is not None
        hidden, mask = visual.hidden[image], visual.text_mask[image]
        # float64: the low temperature would make much of how float32 rounds copies of a token.
        text = visual.text[image].double()
        parts = [cosine(text, some.double()) for some in torch.split(hidden, ROWS)]
        of_text = torch.cat(parts, dim=-1)
        of_text = (of_text / self.text_temperature).softmax(dim=-1)
        of_text *= mask.unsqueeze(-1) / mask.sum().clamp_min(1)
        num_text, n = of_text.shape
        covers = torch.empty(n, num_text + n, device=hidden.device)
        covers[:, :num_text] = of_text.T
        if self.compare == "before":
            assert visual.vision_features is not None
            compared = visual.vision_features[image]
        else:
            compared = hidden
        of_image = self_cosine(compared, out=covers[:, num_text:])
        # Cosines are symmetric: sums of rows are those of columns, and one exponential does, less
        # that of a token with itself, beside which nothing overflows.
        own, pairs = 1 / self.vision_temperature, torch.split(of_image, ROWS)
        totals = []
        for rows in pairs:
            totals.append(rows.sub_(1).mul_(own).exp_().sum(dim=-1))
        share = self.alpha / n / torch.cat(totals).clamp_min_(torch.finfo(torch.float32).tiny)
        for rows in pairs:
            rows *= share
        return covers
