"""Method: what every compression method is, independent of any model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, ClassVar, Literal

from typing_extensions import Self

from foveate.core.budget import Budget
from foveate.core.plan import KeepPlan
from foveate.core.visual import VisualTokens
from foveate.errors import MethodError

Need = Literal["attention", "attention_output"]


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """Settings shared by all methods; a subclass adds its own and implements `plan`.

    Args:
        keep_tokens, keep_ratio: the budget of each image; exactly one.
        prune_layer: decoder layer that first sees the shorter sequence; layers before it run in
            full. 0 prunes before the language model. None takes the method's own default, or the
            first layer the model family allows if that is later.
        early_cache: "compact" also cuts the KV cache of the layers before prune_layer to the kept
            tokens; "full" leaves them whole (same prefill, different decoding, more memory).

    Raises:
        BudgetError: for an impossible budget.
        MethodError: for an impossible layer or setting.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    paper: ClassVar[str] = ""
    default_layer: ClassVar[int] = 2

    keep_tokens: int | None = None
    keep_ratio: float | None = None
    prune_layer: int | None = None
    early_cache: Literal["compact", "full"] = "compact"

    def __post_init__(self) -> None:
        _ = self.budget  # validates
        if self.prune_layer is not None and self.prune_layer < 0:
            raise MethodError(f"prune_layer={self.prune_layer} is negative; use 0 or more.")
        if self.early_cache not in ("compact", "full"):
            raise MethodError(
                f"early_cache={self.early_cache!r} is unknown; use 'compact' or 'full'."
            )
        if self.needs and self.prune_layer == 0:
            raise MethodError(
                f"{self.name} reads the {' and '.join(sorted(self.needs))} of the layer before "
                "prune_layer, and prune_layer=0 has none; use prune_layer=1 or more."
            )

    @property
    def budget(self) -> Budget:
        return Budget(keep_tokens=self.keep_tokens, keep_ratio=self.keep_ratio)

    @property
    def needs(self) -> frozenset[Need]:
        """What `plan` reads beside the hidden states."""
        return frozenset()

    @abstractmethod
    def plan(self, visual: VisualTokens, keep: int) -> KeepPlan:
        """Decide which `keep` of N tokens survive in each image. Pure: no state, no model.

        Args:
            visual: tokens of G images of N tokens each.
            keep: 1 <= keep < N.

        Returns:
            A KeepPlan with exactly `keep` kept tokens per image.
        """

    def to_dict(self) -> dict[str, Any]:
        """Name and settings, enough to build the method again."""
        return {"name": self.name, **asdict(self)}

    @classmethod
    def from_dict(cls, settings: dict[str, Any]) -> Self:
        """Build from `to_dict` output (a "name" entry is checked, then ignored)."""
        settings = dict(settings)
        name = settings.pop("name", cls.name)
        if name != cls.name:
            raise MethodError(f"settings are for method {name!r}, not {cls.name!r}.")
        known = [f.name for f in fields(cls)]
        for key in settings:
            if key not in known:
                raise MethodError(f"{cls.name} has no setting {key!r}; it has {', '.join(known)}.")
        return cls(**settings)

    def __str__(self) -> str:
        own = [
            f"{f.name}={getattr(self, f.name)!r}"
            for f in fields(self)
            if f.name not in ("keep_tokens", "keep_ratio")
            and getattr(self, f.name) != (f.default if f.default is not MISSING else None)
        ]
        return f"{self.name}({', '.join([f'keep={self.budget}', *own])})"
