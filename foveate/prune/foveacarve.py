"""FoveaCarve: spread out first, look where the question points later. Our own method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from foveate.core.determinant import greedy_log_det
from foveate.core.plan import KeepPlan, keep_only
from foveate.core.relevance import min_max
from foveate.core.schedule import profile_counts, spans_of
from foveate.core.visual import VisualTokens
from foveate.errors import MethodError
from foveate.prune.method import Method, Need, Step


@dataclass(frozen=True, kw_only=True)
class FoveaCarve(Method):
    """Spend the token-layers of one cut in several, each by what can be known at its depth.

    Early steps are blind to the question and must not lose what it may ask for: they maximise
    log det (C C^T)_S greedily, C being the visual tokens less their mean. Unlike cosine diversity
    this weighs a token by how far it stands out, and unlike TokenCarve's information score, which
    reads the same Gram matrix, it counts a copy of a chosen token for nothing. Late steps know the
    question: their kernel is conditioned on it, diag(r^p) C C^T diag(r^p), r being the attention of
    the last prompt token scaled to [0, 1].

    The budget is that of a single cut: K N + (L - K) keep token-layers for prune_layer=K in L
    layers, whatever is spent where; prune_layer=0 is the budget of methods that cut before the
    language model.

    Args:
        depths: where steps act, as shares of the decoder's depth, ascending; 0 is before the first
            layer.
        profile: tokens after each step in proportion, not increasing.
        blind_depth: steps before this depth do not read attention.
        relevance_power: p; 0 is never conditioned.
    """

    name = "foveacarve"
    summary = "log-determinant coverage first, conditioned on the question deeper down"

    depths: tuple[float, ...] = (0.0, 0.625)
    profile: tuple[float, ...] = (1.0, 0.15)
    blind_depth: float = 0.5
    relevance_power: float = 1.0
    reads_before_prune_layer: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for setting in ("depths", "profile"):  # JSON has lists
            object.__setattr__(self, setting, tuple(float(v) for v in getattr(self, setting)))
        depths, profile = self.depths, self.profile
        if not depths or len(depths) != len(profile):
            raise MethodError(
                f"{len(depths)} depths and {len(profile)} shares of the profile; give one each."
            )
        if list(depths) != sorted(set(depths)) or not 0 <= depths[0] <= depths[-1] < 1:
            raise MethodError(f"depths={depths} must ascend in [0, 1).")
        if list(profile) != sorted(profile, reverse=True) or profile[-1] <= 0:
            raise MethodError(f"profile={profile} must be positive and must not increase.")
        if self.text_share:
            raise MethodError(
                f"{self.name} is conditioned on the question already; leave text_share at 0."
            )
        super().__post_init__()

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"attention"})

    def steps(self, num_layers: int, first_layer: int) -> tuple[Step, ...]:
        found = super().steps(num_layers, first_layer)
        return tuple(
            replace(step, reads=frozenset()) if self.is_blind(step.layer, num_layers) else step
            for step in found
        )

    def layers(self, num_layers: int, first_layer: int) -> tuple[int, ...]:
        super().layers(num_layers, first_layer)  # checks prune_layer
        found = {max(first_layer, round(depth * num_layers)) for depth in self.depths}
        return tuple(sorted(layer for layer in found if layer < num_layers))

    def is_blind(self, layer: int, num_layers: int) -> bool:
        """Whether the step before `layer` cannot know the question yet."""
        return layer == 0 or layer < self.blind_depth * num_layers or not self.relevance_power

    def keeps(
        self, keep: int, num_tokens: int, layers: Sequence[int], num_layers: int
    ) -> tuple[int, ...]:
        cut = self.default_layer if self.prune_layer is None else self.prune_layer
        cut = max(cut, layers[0])  # where no layer before may run short
        total = cut * num_tokens + (num_layers - cut) * keep - layers[0] * num_tokens
        # Depths that fell on one layer in a shallow decoder share its last proportion.
        profile = self.profile[len(self.profile) - len(layers) :]
        return profile_counts(profile, total, num_tokens, spans_of(layers, num_layers))

    def kernel(self, visual: VisualTokens) -> Tensor:
        """Of all tokens, not conditioned on anything: C C^T. [G, N, N] float64"""
        # float64: in a nearly singular kernel rounding would decide between close tokens.
        x = visual.hidden.double()
        centred = x - x.mean(dim=1, keepdim=True)
        return torch.matmul(centred, centred.transpose(-1, -2))

    def plan(self, visual: VisualTokens, keep: int) -> KeepPlan:
        kernel, scores = self.kernel(visual), {}
        if visual.attention is not None:
            scores["relevance"] = min_max(visual.attention.mean(dim=1))
            weight = scores["relevance"].double().pow(self.relevance_power)
            kernel = weight.unsqueeze(-1) * kernel * weight.unsqueeze(-2)
        chosen, _ = greedy_log_det(kernel, keep)
        return keep_only(chosen, visual.num_tokens, scores)
