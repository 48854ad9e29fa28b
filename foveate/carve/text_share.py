"""TextShare: part of any method's budget goes to what the prompt's text points at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self

from foveate.carve.composed import Composed, built
from foveate.carve.frame_method import FrameMethod
from foveate.carve.method import Method, Step
from foveate.carve.needs import LAYER_NEEDS, Need, relevance_needs
from foveate.core.demand import Demand
from foveate.core.frames import Frames
from foveate.core.plan import KeepPlan, keep_only
from foveate.core.rank import others, top_k
from foveate.core.relevance import Relevance, text_relevance
from foveate.core.visual import VisualTokens
from foveate.errors import MethodError

_OF_INNER = ("prune_layer", "early_cache", "positions", "sizes", "attention_scores", "frames")


@dataclass(frozen=True, kw_only=True)
class TextShare(Composed):
    """The tokens most relevant to the text first; a method spends the rest of its budget.

    At every step of the method inside, round(share K) of the K tokens that it leaves are those most
    relevant to the prompt's text. The method chooses K - round(share K) among the others, as if the
    first ones were not there.

    Args:
        inner: the method inside. Its budget is that of both, all other settings are its own.
        share: of the budget, in [0, 1].
        relevance: how relevance is read, see core.relevance: "attention" of the last prompt token,
            "text_attention" of all text tokens, "similarity" (any layer).

    Raises:
        MethodError: the method inside is a stack, or acts inside the vision tower.

    Example:
        >>> from foveate import FastV
        >>> print(TextShare(inner=FastV(keep_ratio=0.25), share=0.3, relevance="text_attention"))
        text-share(fastv(keep=25%), share=0.3, relevance='text_attention')
    """

    name = "text-share"
    summary = "spends a share of another method's budget on what the prompt's text points at"
    article = "a text share"

    inner: Method
    share: float = 0.3
    relevance: Relevance = "attention"

    def __post_init__(self) -> None:
        inner = self.inner
        if not 0.0 <= self.share <= 1.0:
            raise MethodError(f"share={self.share} is outside [0, 1].")
        if inner.where == "vision_tower":
            raise MethodError(
                f"{inner.name} acts inside the vision tower, where no text is seen; take "
                "text-share off it."
            )
        if len(inner.members) > 1:
            raise MethodError(
                f"text-share goes around one method, not around {inner}; put it around stages, "
                "e.g. text-share(divprune, relevance=similarity):50%+fastv."
            )
        if isinstance(inner, FrameMethod):
            raise MethodError(
                f"{inner.name} compares whole frames, which a share for the text would take tokens "
                "of; take text-share off it."
            )
        for setting in _OF_INNER:
            object.__setattr__(self, setting, getattr(inner, setting))
        super().__post_init__()

    @property
    def parts(self) -> tuple[Method, ...]:
        return (self.inner,)

    @property
    def where(self) -> Any:  # type: ignore[override]
        return self.inner.where

    @property
    def exact_budget(self) -> bool:  # type: ignore[override]
        return self.inner.exact_budget

    @property
    def counts_itself(self) -> bool:  # type: ignore[override]
        return self.inner.counts_itself

    @property
    def needs_before_prune_layer(self) -> bool:  # type: ignore[override]
        return self.inner.needs_before_prune_layer

    @property
    def ranks_by_attention(self) -> bool:
        return self.inner.ranks_by_attention

    @property
    def merges_tokens(self) -> bool:  # type: ignore[override]
        return self.inner.merges_tokens

    @property
    def needs(self) -> frozenset[Need]:
        return self.inner.needs | self._asked

    @property
    def _asked(self) -> frozenset[Need]:
        return relevance_needs(self.relevance) if self.share else frozenset()

    def early_tower_layer(self, num_layers: int) -> int:
        return self.inner.early_tower_layer(num_layers)

    def foresight_layer(self, num_layers: int) -> int:
        return self.inner.foresight_layer(num_layers)

    def layers(self, num_layers: int, first_layer: int) -> tuple[int, ...]:
        return self.inner.layers(num_layers, first_layer)

    def steps(self, num_layers: int, first_layer: int) -> tuple[Step, ...]:
        """Those of the method inside, which also see what relevance is read from.

        Raises:
            MethodError: there is none before the first of them; or some of them ask for that and
                others do not: they might take what is there for what they asked for.
        """
        found = self.inner.steps(num_layers, first_layer)
        if self._asked & LAYER_NEEDS and found[0].layer == 0:
            # Of others prune_layer is a price: they act where they act.
            later = ", or a later prune_layer" if self.inner.needs_before_prune_layer else ""
            raise MethodError(
                f"{self.inner.name} cuts before layer 0, where text-share has no {self.relevance} "
                f"to read yet; use relevance='similarity'{later}."
            )
        asking = [step.layer for step in found if self._asked <= step.needs]
        if self._asked and 0 < len(asking) < len(found):
            raise MethodError(
                f"{self.inner.name} reads the {self.relevance} at layer {asking[0]} and not at "
                f"others, so text-share cannot read it there; use relevance='similarity'."
            )
        return tuple(replace(s, method=self, needs=s.needs | self._asked) for s in found)

    def count(self, num_tokens: int, frames: Frames | None = None, image: int = 0) -> int:
        return self.inner.count(num_tokens, frames, image)

    def remark(self, num_tokens: int, frames: Frames | None) -> str:
        return self.inner.remark(num_tokens, frames)

    def keeps(
        self, keep: int, num_tokens: int, layers: Sequence[int], num_layers: int
    ) -> tuple[int, ...]:
        return self.inner.keeps(keep, num_tokens, layers, num_layers)

    def adapt(
        self, visual: VisualTokens, keeps: Sequence[int], step: Step, num_layers: int
    ) -> tuple[int, ...]:
        return self.inner.adapt(visual, keeps, step, num_layers)

    def demand(self, num_images: int, num_tokens: int, width: int, keep: int) -> Demand:
        return self.inner.demand(num_images, num_tokens, width, keep)

    def plan(self, visual: VisualTokens, keep: int) -> KeepPlan:
        num_first = round(self.share * keep)
        if not num_first:
            return self.inner.plan(visual, keep)
        relevance = text_relevance(visual, self.relevance)
        first = top_k(relevance, num_first)  # [G, F]
        if num_first == keep:
            return keep_only(first, visual.num_tokens, {"relevance": relevance})
        rest = others(first, visual.num_tokens)
        plan = self.inner.plan(visual.tokens(rest), keep - num_first)
        kept = torch.cat([first, rest.gather(1, plan.keep_idx)], dim=1)
        return KeepPlan(
            num_tokens=visual.num_tokens,
            keep_idx=kept.sort(dim=-1).values,
            merge_src=rest.gather(1, plan.merge_src),
            merge_dst=rest.gather(1, plan.merge_dst),
            scores={"relevance": relevance},
            notes=plan.notes,
            value_idx=_values(first, rest, plan),
            adds=plan.adds,
        )

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.reference(),
            "inner": self.inner.to_dict(),
            "share": self.share,
            "relevance": self.relevance,
        }

    @classmethod
    def from_dict(cls, settings: dict[str, Any]) -> Self:
        if "inner" in settings:
            settings = {**settings, "inner": built(settings["inner"])}
        return super().from_dict(settings)

    def __str__(self) -> str:
        relevance = "" if self.relevance == "attention" else f", relevance={self.relevance!r}"
        return f"{self.name}({self.inner}, share={self.share}{relevance})"


def _values(first: Tensor, rest: Tensor, plan: KeepPlan) -> Tensor | None:
    """`value_idx` of a plan for `rest` [G, R], behind `first` [G, F] that carry their own rows."""
    if plan.value_idx is None:
        return None
    kept = torch.cat([first, rest.gather(1, plan.keep_idx)], dim=1)
    carried = torch.cat([first, rest.gather(1, plan.value_idx)], dim=1)
    return carried.gather(1, kept.argsort(dim=-1))
