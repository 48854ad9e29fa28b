"""TokenCarve: prune by information and attention, then merge (Tan et al., arXiv:2503.10501)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from foveate.carve.method import Method
from foveate.carve.needs import Need
from foveate.core.demand import Demand
from foveate.core.information import (
    INFORMATION_SCORES,
    exact_bytes,
    exact_seconds,
    score_in_use,
)
from foveate.core.layout import columns_where
from foveate.core.plan import KeepPlan
from foveate.core.rank import borda, descending_order, top_k
from foveate.core.rows import gather_rows
from foveate.core.similarity import best_match
from foveate.core.visual import VisualTokens
from foveate.errors import MethodError


@dataclass(frozen=True, kw_only=True)
class TokenCarve(Method):
    """Information-preserving carving in two stages.

    With T tokens to keep of N: fuse two rankings (information score and attention of the last
    prompt token), take the R = T + int(merge_fraction * T) best, split them into a better half A
    and the rest B, and merge the R - T members of B that are most similar to a member of A into it.

    Args:
        attention_weight: share of the attention ranking in the fusion, in [0, 1]: the lambda of
            the paper.
        merge_fraction: merged tokens per kept token, in [0, 1]; 0.5 in paper and code, 0 never
            merges.
        information_input: "layer_output" scores the output of the decoder layer before prune_layer,
            as the official code does (default); "attention_output" scores that layer's attention
            output, as the paper writes.
        information_score: "exact" (Gram matrix and float64 eigendecomposition), the approximations
            "subspace" (products with a thin block) and "norm" (row norms), or "auto": exact where
            that is cheap on the device at hand, above it subspace (see core.information). The
            report says which it was.
        where: "llm", as published, or "encoder": before the language model, on the projector's
            output and the attention of the vision tower (of its CLS token; the mean over all tokens
            where there is none). Blind to the question, so the same tokens serve every question,
            and engines that cannot prune between layers can use it.

    Example:
        >>> TokenCarve(keep_tokens=128).needs
        frozenset({'attention'})
    """

    name = "tokencarve"
    summary = "fuses information score and attention, prunes, then merges similar tokens"
    paper = "arXiv:2503.10501"
    fidelity = "as the official implementation, recorded on small models"
    merges_tokens = True

    attention_weight: float = 0.5
    merge_fraction: float = 0.5
    information_input: Literal["layer_output", "attention_output"] = "layer_output"
    information_score: Literal["auto", "exact", "subspace", "norm"] = "auto"
    where: Literal["llm", "encoder"] = "llm"  # type: ignore[misc]

    def __post_init__(self) -> None:
        for setting in ("attention_weight", "merge_fraction"):
            value = getattr(self, setting)
            if not 0.0 <= value <= 1.0:
                raise MethodError(f"{setting}={value} is outside [0, 1].")
        if self.where == "encoder" and self.information_input == "attention_output":
            raise MethodError(
                "information_input='attention_output' is of a decoder layer, and where='encoder' "
                "is before the first; use 'layer_output' (the projector's output there)."
            )
        super().__post_init__()

    @property
    def default_layer(self) -> int:  # type: ignore[override]
        return 0 if self.where == "encoder" else 2

    @property
    def needs(self) -> frozenset[Need]:
        if self.where == "encoder":
            return frozenset({"vision_attention"})
        needs: set[Need] = {"attention"}
        if self.information_input == "attention_output":
            needs.add("attention_output")
        return frozenset(needs)

    def demand(self, num_images: int, num_tokens: int, width: int, keep: int) -> Demand:
        if self.information_score != "exact":
            return super().demand(num_images, num_tokens, width, keep)
        side = min(num_tokens, width)
        return Demand(
            what=f"a float64 eigendecomposition of {side} x {side}",
            bytes=exact_bytes(num_images, num_tokens, width),
            seconds=exact_seconds(num_tokens, width),
            instead="use information_score='auto'",
        )

    def plan(self, visual: VisualTokens, keep: int) -> KeepPlan:
        scored = visual.hidden
        if self.information_input == "attention_output":
            assert visual.attention_output is not None
            scored = visual.attention_output
        if self.where == "encoder":
            assert visual.vision_attention is not None
            attention = visual.vision_attention  # [G, N]
        else:
            assert visual.attention is not None
            attention = visual.attention.mean(dim=1)  # [G, N]
        num_tokens, width = scored.shape[1:]
        form = self.information_score
        if form == "auto":
            form = score_in_use(num_tokens, width, scored.device)
        information = INFORMATION_SCORES[form](scored)  # [G, N]
        fused = borda(attention, information, self.attention_weight)

        num_ranked = min(visual.num_tokens, keep + int(self.merge_fraction * keep))
        top = top_k(fused, num_ranked)  # [G, R], best first
        merge_src, merge_dst = self._merges(visual.hidden, top, num_ranked - keep)
        kept = _without(top, merge_src)
        return KeepPlan(
            num_tokens=visual.num_tokens,
            keep_idx=kept.sort(dim=-1).values,
            merge_src=merge_src,
            merge_dst=merge_dst,
            scores={"information": information, "attention": attention, "fused": fused},
            notes=(("information score", f"{form}, of {num_tokens} x {width} states"),),
        )

    @staticmethod
    def _merges(hidden: Tensor, top: Tensor, num_merged: int) -> tuple[Tensor, Tensor]:
        """The `num_merged` most similar pairs: source in B, target in A, [G, M] each."""
        half = top.shape[1] // 2
        better, rest = top[:, :half], top[:, half:]
        if num_merged == 0:
            return rest[:, :0], rest[:, :0]
        similarity, target = best_match(
            gather_rows(hidden, rest),
            gather_rows(hidden, better),
        )
        closest = descending_order(similarity)[:, :num_merged]
        return rest.gather(1, closest), better.gather(1, target.gather(1, closest))


def _without(idx: Tensor, removed: Tensor) -> Tensor:
    """Rows of `idx` [G, R] without the members of `removed` [G, M], order kept. [G, R - M]"""
    stays = (idx.unsqueeze(-1) != removed.unsqueeze(1)).all(dim=-1)
    return idx.gather(1, columns_where(stays, idx.shape[1] - removed.shape[1]))
