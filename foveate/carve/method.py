"""Method: what every compression method is, independent of any model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from functools import cached_property
from typing import Any, ClassVar, Literal

from typing_extensions import Self

from foveate.carve.definition import (
    check_names,
    is_abstract,
    make_plain,
    on_plain_settings,
    register,
)
from foveate.carve.needs import LAYER_NEEDS, OF_THE_LAST, Need
from foveate.core.budget import BUDGET, Budget
from foveate.core.by_frame import by_frame
from foveate.core.demand import Demand, check_demand
from foveate.core.frames import Frames
from foveate.core.plan import KeepPlan
from foveate.core.visual import VisualTokens
from foveate.errors import BudgetError, MethodError

Where = Literal["vision_tower", "encoder", "llm"]
Positions = Literal["original", "renumbered"]
Sizes = Literal["ignore", "log"]
AttentionScores = Literal["plain", "debiased"]

# Every method whose class has been defined; `foveate.carve.registry` also finds others.
METHODS: dict[str, type[Method]] = {}


@dataclass(frozen=True)
class Step:
    """One act of pruning in a run.

    Args:
        layer: decoder layer that first sees what it leaves.
        method: who decides.
        layers: all of that method's layers.
        number: which of them this is.
        needs: what it looks at beside the hidden states.
    """

    layer: int
    method: Method
    layers: tuple[int, ...]
    number: int
    needs: frozenset[Need]

    @property
    def debiases(self) -> bool:
        """Whether the attention that it reads is to be debiased."""
        return self.method.attention_scores == "debiased" and bool(self.needs & OF_THE_LAST)


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """Settings shared by all methods; a subclass adds its own and implements `plan`.

    A subclass that has a `name` of its own and implements everything enters METHODS as it is
    defined. Its settings are int, float, str, bool, None, Literal, or tuples of them: on
    construction, before any `__post_init__`, each becomes the plain value that its annotation says,
    so numbers of numpy and torch do, and `to_dict` is always JSON.

    Args:
        keep_tokens, keep_ratio, keep_information: the budget of each image; exactly one.
        keep_min, keep_max: bounds to what keep_information keeps, see `core.budget`.
        prune_layer: decoder layer that first sees the shorter sequence; layers before it run in
            full. 0 prunes before the language model. None takes the method's own default, or the
            first layer the model family allows if that is later.
        early_cache: "compact" also cuts the KV cache of the layers before prune_layer to the kept
            tokens; "full" leaves them whole (same prefill, different decoding, more memory).
        positions: "original": kept tokens stay where they were in the prompt, and so does the text.
            "renumbered": from prune_layer on they close ranks, as in code that shortens the input
            before the language model. One-dimensional rotary positions only.
        sizes: what a merged token counts for in the attention of the language model. "ignore": one
            token, as in the published codes. "log": as many as it was made of, by log(size) on the
            logits of its key (Bolya et al. 2022, proportional attention), from the layer that first
            sees it on, in steps of all kinds, and in decoding. Methods that merge only.
        attention_scores: "plain", or "debiased": the attention of the last prompt token less what a
            token without content would get at the same place, see core.debiased. The dummy is the
            image's mean token in the layer that is read, whose queries and keys are worked out once
            more. Scores may be negative. Methods that read that attention only.
        frames: of a video, whose budget is for all of it: "joint" decides on the whole video at
            once; "each" spreads the budget evenly over the frames and decides on each as an image.

    Class attributes:
        name: how it is called, letters, digits, "_" and "-"; one class has it.
        summary: what it does, in a line.
        paper: where it is published.
        fidelity: how it stands to its authors' code: as at which commit, or how it differs and why;
            "" where there is none to stand to.
        where: "vision_tower" (fewer tokens inside the vision tower), "encoder" (between the tower
            and the language model: prune_layer 0), "llm" (between two decoder layers).
        exact_budget: False where the budget is a ceiling.
        counts_itself: `adapt` says how many tokens stay even where the budget is the whole image.
        needs_before_prune_layer: its needs are those of the step at prune_layer.
        merges_tokens: its plans may merge.
        always_named: settings that `str` shows at their defaults too.

    Raises:
        BudgetError: for an impossible budget.
        MethodError: for an impossible layer or setting; where a class is defined, for a name that
            another class has, or that cannot be typed.
    """

    name: ClassVar[str]
    summary: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    fidelity: ClassVar[str] = ""
    where: ClassVar[Where] = "llm"
    default_layer: ClassVar[int] = 2
    exact_budget: ClassVar[bool] = True
    counts_itself: ClassVar[bool] = False
    needs_before_prune_layer: ClassVar[bool] = True
    merges_tokens: ClassVar[bool] = False
    always_named: ClassVar[frozenset[str]] = frozenset()

    keep_tokens: int | None = None
    keep_ratio: float | None = None
    keep_information: float | None = None
    keep_min: int | float | None = None
    keep_max: int | float | None = None
    prune_layer: int | None = None
    early_cache: Literal["compact", "full"] = "compact"
    positions: Positions = "original"
    sizes: Sizes = "ignore"
    attention_scores: AttentionScores = "plain"
    frames: Literal["joint", "each"] = "joint"

    def __new__(cls, *_: Any, **settings: Any) -> Self:
        check_names(cls, settings)
        return super().__new__(cls)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own_check = cls.__dict__.get("__post_init__")
        if own_check is not None:
            cls.__post_init__ = on_plain_settings(own_check)  # type: ignore[assignment, method-assign]
        if "name" in cls.__dict__ and not is_abstract(cls):
            register(cls, METHODS)

    def __post_init__(self) -> None:
        make_plain(self)
        if self.budget.needs_states and self.members[-1].where == "vision_tower":
            raise BudgetError(
                f"{self.name} acts inside the vision tower, before there are visual tokens whose "
                f"information could be told, and the budget is {self.budget}; use keep_ratio or "
                "keep_tokens."
            )
        if self.prune_layer is not None and self.prune_layer < 0:
            raise MethodError(f"prune_layer={self.prune_layer} is negative; use 0 or more.")
        if self.frames == "each" and self.where == "vision_tower":
            raise MethodError(
                f"{self.name} acts inside the vision tower, where every frame is a picture of its "
                "own; leave frames at 'joint'."
            )
        of_layer = self.needs & LAYER_NEEDS if self.needs_before_prune_layer else None
        if of_layer and self.prune_layer == 0:
            raise MethodError(
                f"{self.name} reads the {' and '.join(sorted(of_layer))} of the layer before "
                "prune_layer, and prune_layer=0 has none; use prune_layer=1 or more."
            )
        if self.sizes == "log" and not self.merges_tokens:
            raise MethodError(
                f"{self.name} merges no tokens (a class that does has merges_tokens=True), so each "
                "counts once; leave sizes at 'ignore'."
            )
        if self.attention_scores == "debiased" and not self.ranks_by_attention:
            raise MethodError(
                f"{self.name} does not read the attention of the last prompt token; leave "
                "attention_scores at 'plain'."
            )
        if self.where == "vision_tower" and self.prune_layer:
            raise MethodError(
                f"{self.name} acts inside the vision tower, and prune_layer={self.prune_layer} is "
                "behind it; leave prune_layer unset."
            )

    @cached_property
    def budget(self) -> Budget:
        return Budget(**{name: getattr(self, name) for name in BUDGET})

    @property
    def members(self) -> tuple[Method, ...]:
        """The methods that act, first to last: itself, or what it is made of."""
        return (self,)

    @property
    def needs(self) -> frozenset[Need]:
        """What `plan` reads beside the hidden states."""
        return frozenset()

    @property
    def ranks_by_attention(self) -> bool:
        """Whether some step looks at the attention of the last prompt token."""
        return bool(self.needs & OF_THE_LAST)

    def early_tower_layer(self, num_layers: int) -> int:
        """The layer of a vision tower of `num_layers` whose attention the early needs mean.

        Raises:
            MethodError: the tower has no such layer.
        """
        raise NotImplementedError(f"{self.name} reads no early layer of the vision tower")

    def foresight_layer(self, num_layers: int) -> int:
        """The layer of a decoder of `num_layers` that the need "foresight" means.

        The nearest that can be looked at is taken: one that attends to everything with keys of its
        own, from the step's layer on.
        """
        raise NotImplementedError(f"{self.name} does not read ahead")

    def layers(self, num_layers: int, first_layer: int) -> tuple[int, ...]:
        """The decoder layers that first see what each step leaves, ascending.

        Args:
            num_layers: of the decoder.
            first_layer: the first that the model family allows.

        Raises:
            MethodError: prune_layer does not fit the model.
        """
        layer = self.prune_layer
        if layer is None:
            layer = max(self.default_layer, first_layer)
        if layer < first_layer:
            raise MethodError(
                f"prune_layer={layer} is too early for this model family, which adds visual "
                f"features up to layer {first_layer - 1}; use prune_layer={first_layer} or more."
            )
        if layer >= num_layers:
            raise MethodError(
                f"prune_layer={layer} is outside the {num_layers} decoder layers; "
                f"use {num_layers - 1} or less."
            )
        return (layer,)

    def steps(self, num_layers: int, first_layer: int) -> tuple[Step, ...]:
        """All steps of a run, see `layers`."""
        layers = self.layers(num_layers, first_layer)
        return tuple(Step(layer, self, layers, i, self.needs) for i, layer in enumerate(layers))

    def count(self, num_tokens: int, frames: Frames | None = None, image: int = 0) -> int:
        """Tokens to keep of an image or video of `num_tokens`: the budget's, or more where `remark`
        says why.

        Args:
            frames: of a video; None for a still image.
            image: its number, for the error.

        Raises:
            BudgetError: the budget exceeds the tokens.
        """
        return self.budget.count(num_tokens, image)

    def remark(self, num_tokens: int, frames: Frames | None) -> str:
        """What the report has to say of an image or video: why it keeps more than its budget."""
        return ""

    def keeps(
        self, keep: int, num_tokens: int, layers: Sequence[int], num_layers: int
    ) -> tuple[int, ...]:
        """Tokens of an image that each step leaves.

        A method of several steps reads its budget as the mean over the decoder layers from its
        first step on, so that the same budget costs the same.

        Args:
            keep: the budget as a count.
            num_tokens: of the image, before any step.
            layers: of the steps.
            num_layers: of the decoder.
        """
        return (keep,)

    def adapt(
        self, visual: VisualTokens, keeps: Sequence[int], step: Step, num_layers: int
    ) -> tuple[int, ...]:
        """What this step leaves of each of the images, where that depends on their content.

        Args:
            visual: the images, as for `plan`.
            keeps: what `keeps` gave.
            step: this step.
            num_layers: of the decoder.
        """
        return (keeps[step.number],) * visual.num_images

    def select(self, visual: VisualTokens, keep: int) -> KeepPlan:
        """`plan`, of each frame where `frames` says so, unless that would take too much.

        Raises:
            MethodError: it would need more than it should, see `demand`.
        """
        if self.frames == "each" and visual.frames is not None:
            return by_frame(self.select, visual, keep)
        num_images, num_tokens, width = visual.hidden.shape
        check_demand(
            self.demand(num_images, num_tokens, width, keep),
            method=self.name,
            num_images=num_images,
            num_tokens=num_tokens,
            device=visual.hidden.device,
        )
        return self.plan(visual, keep)

    def demand(self, num_images: int, num_tokens: int, width: int, keep: int) -> Demand:
        """What `plan` takes beside the states it is given; here: nothing to speak of.

        A method that may need gigabytes or minutes says so, and `select` refuses what is too much
        before it starts.

        Args:
            num_images, num_tokens, width: G, N and D of the states.
            keep: as for `plan`.
        """
        return Demand()

    @abstractmethod
    def plan(self, visual: VisualTokens, keep: int) -> KeepPlan:
        """Decide which `keep` of N tokens survive in each image. Pure: no state, no model.

        Args:
            visual: tokens of G images of N tokens each.
            keep: 1 <= keep < N.

        Returns:
            A KeepPlan with exactly `keep` kept tokens per image (at most `keep` where the class
            says exact_budget=False).
        """

    @classmethod
    def reference(cls) -> str:
        """What names the class in every process: its name, or "module:Class" outside foveate."""
        is_ours = cls.__module__.split(".")[0] == "foveate" and METHODS.get(cls.name) is cls
        return cls.name if is_ours else f"{cls.__module__}:{cls.__qualname__}"

    def to_dict(self) -> dict[str, Any]:
        """Reference and settings, JSON, enough for `foveate.method` to build the method again."""
        return {"name": self.reference(), **asdict(self)}

    @classmethod
    def from_dict(cls, settings: dict[str, Any]) -> Self:
        """Build from `to_dict` output (a "name" entry is checked, then ignored).

        Raises:
            BudgetError, MethodError: the name is another's; a setting is unknown, missing, or
                cannot be.
        """
        settings = dict(settings)
        name = settings.pop("name", cls.name)
        if name not in (cls.name, cls.reference()):
            raise MethodError(f"settings are for method {name!r}, not {cls.name!r}.")
        check_names(cls, settings)
        for f in fields(cls):
            is_needed = f.init and f.default is MISSING and f.default_factory is MISSING
            if is_needed and f.name not in settings:
                raise MethodError(f"{cls.name} needs the setting {f.name!r}; give it.")
        return cls(**settings)

    def __str__(self) -> str:
        own = [
            f"{f.name}={getattr(self, f.name)!r}"
            for f in fields(self)
            if f.name in self.always_named
            or (
                f.name not in BUDGET
                and getattr(self, f.name) != (f.default if f.default is not MISSING else None)
            )
        ]
        return f"{self.name}({', '.join([f'keep={self.budget}', *own])})"


def staged_layers(
    method: Method, first: int, stages: int, num_layers: int, first_layer: int
) -> tuple[int, ...]:
    """`stages` layers from `first` on that divide the rest of the decoder evenly.

    Raises:
        MethodError: they do not fit.
    """
    if stages < 1:
        raise MethodError(f"stages={stages} is below 1; raise it.")
    if first < first_layer or first + stages > num_layers:
        raise MethodError(
            f"{method.name} cannot cut {stages} times from layer {first} on in {num_layers} "
            f"decoder layers, of which {first_layer} is the first allowed; change prune_layer or "
            "stages."
        )
    width = (num_layers - first) / stages
    return tuple(first + int(i * width) for i in range(stages))
