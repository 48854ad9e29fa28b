"""TwoStage: two methods in turn that spend the token-layers of one cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

from foveate.carve.composed import Composed
from foveate.carve.frame_method import FrameMethod
from foveate.carve.method import Method, Step
from foveate.carve.needs import EARLY_NEEDS, LAYER_NEEDS, Need
from foveate.carve.spec import parse_method
from foveate.core.budget import Budget
from foveate.core.plan import KeepPlan
from foveate.core.schedule import spans_of, tapered_counts, total_of_cut
from foveate.core.visual import VisualTokens
from foveate.errors import MethodError

# What a method with one count for one step leaves as it is.
_COUNTING = ("adapt", "count", "keeps")


@dataclass(frozen=True, kw_only=True)
class TwoStage(Method):
    """One method before the language model, another deeper down, at the price of a single cut.

    What many papers do with their own two: diversity while the question is unknown, attention once
    it is. Here any two methods take the places. The budget is that of a single cut: k N + (L - k)
    keep token-layers for prune_layer=k in L layers; prune_layer=0 is the budget of methods that cut
    before the language model. A `Stack` has a budget for each stage instead.

    Args:
        first: decides before the first layer (the first that the family allows), as it would be
            typed, e.g. "scope" or "divprune".
        second: decides at `depth`, e.g. "fastv".
        depth: share of the decoder's depth.
        taper: the second leaves this share of what the first did.
        enough: share of the image that answers nearly everything: the first keeps no more of it
            while the second keeps less than the first.

    Raises:
        MethodError: a method that cuts inside the vision tower, in several steps, or counts itself;
            one with settings that both share, which are set here.

    Example:
        >>> print(TwoStage(keep_ratio=0.25, first="scope", second="fastv"))
        two-stage(keep=25%, first='scope', second='fastv')
    """

    name = "two-stage"
    summary = "two methods in turn, one before the language model, at the price of a single cut"
    needs_before_prune_layer: ClassVar[bool] = False
    always_named: ClassVar[frozenset[str]] = frozenset({"first", "second"})

    first: str = "divprune"
    second: str = "fastv"
    depth: float = 0.625
    taper: float = 0.4
    enough: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.depth < 1:
            raise MethodError(f"depth={self.depth} is outside (0, 1).")
        if not 0 < self.taper <= 1:
            raise MethodError(f"taper={self.taper} is outside (0, 1].")
        if not 0 < self.enough <= 1:
            raise MethodError(f"enough={self.enough} is outside (0, 1].")
        first, second = self.pair
        if early := first.needs & LAYER_NEEDS:
            raise MethodError(
                f"{first.name} reads the {' and '.join(sorted(early))} of the layer before it, and "
                f"the first method of {self.name} acts where there is none; make it the second."
            )
        if isinstance(second, FrameMethod):
            raise MethodError(
                f"{second.name} compares whole frames, which the first method takes tokens of; "
                "let it be the first."
            )

    @cached_property
    def pair(self) -> tuple[Method, Method]:
        """The two methods; their budgets are not used."""
        return self._member(self.first), self._member(self.second)

    def _member(self, text: str) -> Method:
        """One of the two.

        Raises:
            MethodError: it cannot be one, or has settings that only both can have.
        """
        both = {name: getattr(self, name) for name in ("early_cache", "positions", "frames")}
        member = parse_method(text, Budget(keep_ratio=1.0), **both)
        if member.where == "vision_tower":
            budget = "" if member.counts_itself else ":50%"
            raise MethodError(
                f"{member.name} acts inside the vision tower, and {self.name} cuts behind it; "
                f"use a stack, e.g. {member.name}{budget}+fastv."
            )
        if isinstance(member, Composed):
            raise MethodError(
                f"{member.name} is made of methods, and {self.name} takes two single ones; name "
                "one of them."
            )
        if _has_own(member, "budget"):
            raise MethodError(
                f"{member.name} keeps {member.budget} whatever its budget, and {self.name} gives "
                "each of its two methods one; choose another."
            )
        if any(_has_own(member, name) for name in _COUNTING):
            raise MethodError(
                f"{member.name} counts its tokens itself or over several steps, and "
                f"{self.name} gives each of its two methods one count; choose another."
            )
        settled: dict[str, tuple[object, ...]] = {name: (both[name],) for name in both}
        settled["prune_layer"] = (None,)
        for name, plain in (("sizes", "ignore"), ("attention_scores", "plain")):
            settled[name] = (plain, getattr(self, name))  # not all methods have the other
        own = [name for name, values in settled.items() if getattr(member, name) not in values]
        if own:
            raise MethodError(
                f"{text!r} sets {' and '.join(own)}, which {self.name} settles for both of its "
                f"methods; leave that out there, and set {self.name}'s own (for where they act, "
                "depth)."
            )
        return member

    @property
    def needs(self) -> frozenset[Need]:
        first, second = self.pair
        return first.needs | second.needs

    @property
    def merges_tokens(self) -> bool:  # type: ignore[override]
        return any(member.merges_tokens for member in self.pair)

    @property
    def exact_budget(self) -> bool:  # type: ignore[override]
        return all(member.exact_budget for member in self.pair)

    def layers(self, num_layers: int, first_layer: int) -> tuple[int, ...]:
        super().layers(num_layers, first_layer)  # checks prune_layer
        second = round(self.depth * num_layers)
        if not first_layer < second < num_layers:
            raise MethodError(
                f"depth={self.depth} is layer {second} of {num_layers}, and the second method acts "
                f"behind layer {first_layer}; choose another depth."
            )
        return first_layer, second

    def steps(self, num_layers: int, first_layer: int) -> tuple[Step, ...]:
        layers = self.layers(num_layers, first_layer)
        found = []
        for number, (layer, member) in enumerate(zip(layers, self.pair, strict=True)):
            (own,) = replace(member, prune_layer=layer).steps(num_layers, first_layer)
            found.append(Step(layer, self, layers, number, own.needs))
        return tuple(found)

    def early_tower_layer(self, num_layers: int) -> int:
        asking = [member for member in self.pair if member.needs & EARLY_NEEDS]
        found = sorted({member.early_tower_layer(num_layers) for member in asking})
        if len(found) > 1:
            raise MethodError(
                f"{self.first} and {self.second} read the early layers "
                f"{', '.join(map(str, found))} of the vision tower, and one is read; let both read "
                "the same."
            )
        return found[0]

    def foresight_layer(self, num_layers: int) -> int:
        first, second = self.pair
        return (first if "foresight" in first.needs else second).foresight_layer(num_layers)

    def keeps(
        self, keep: int, num_tokens: int, layers: Sequence[int], num_layers: int
    ) -> tuple[int, ...]:
        cut = self.default_layer if self.prune_layer is None else self.prune_layer
        total = total_of_cut(cut, keep, num_tokens, layers, num_layers)
        spans = spans_of(layers, num_layers)
        return tapered_counts(total, num_tokens, spans, self.taper, self.enough)

    def select(self, visual: VisualTokens, keep: int) -> KeepPlan:
        return self._acting(visual).select(visual, keep)

    def plan(self, visual: VisualTokens, keep: int) -> KeepPlan:
        return self._acting(visual).plan(visual, keep)

    def _acting(self, visual: VisualTokens) -> Method:
        """The second once an earlier step has left its count."""
        return self.pair[min(len(visual.counts), 1)]


def _has_own(member: Method, name: str) -> bool:
    """Whether its class answers in its own way."""
    return getattr(type(member), name) is not getattr(Method, name)
