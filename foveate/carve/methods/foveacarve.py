"""FoveaCarve: spread out first, look where the question points later. Our own method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from foveate.carve.method import Method, Need, Step
from foveate.core.demand import Demand
from foveate.core.greedy.determinant import greedy_log_det, log_det_bytes
from foveate.core.greedy.pairs import Gram, Pairs, Weighted
from foveate.core.plan import KeepPlan, keep_only
from foveate.core.relevance import min_max
from foveate.core.schedule import geometric_counts, spans_of
from foveate.core.visual import VisualTokens
from foveate.errors import MethodError


@dataclass(frozen=True, kw_only=True)
class FoveaCarve(Method):
    """Spend the token-layers of one cut in several, each by what can be known at its depth.

    Early steps are blind to the question and must not lose what it may ask for: they maximise
    log det K_S greedily, with C the visual tokens less their mean, s^2 their mean squared norm and

        K = C C^T / s^2 + g exp(-|c_i - c_j|^2 / 2 s^2).

    Unlike cosine diversity the first term weighs a token by how far it stands out, and unlike
    TokenCarve's information score, which reads the same Gram matrix, it counts a copy of a chosen
    token for nothing. Alone it runs out of rank where many tokens are kept; the second term never
    does. Late steps know the question: their kernel is conditioned on it, diag(r^p) K diag(r^p), r
    being the attention of the last prompt token scaled to [0, 1].

    The budget is that of a single cut: k N + (L - k) keep token-layers for prune_layer=k in L
    layers, whatever is spent where; prune_layer=0 is the budget of methods that cut before the
    language model. Each step keeps the same share of what it gets, save that no step keeps more
    than `enough` of the image while a later one keeps less.

    Args:
        depths: where steps act, as shares of the decoder's depth, ascending; 0 is before the first
            layer.
        gaussian: g; 0 is the Gram matrix alone.
        enough: share of the image that answers nearly everything.
        blind_depth: steps before this depth do not read attention.
        relevance_power: p; 0 is never conditioned.
        where: "llm", as above, or "encoder": the blind step alone, before the language model, where
            the question is not known and `depths` does not count.
    """

    name = "foveacarve"
    summary = "log-determinant coverage first, conditioned on the question deeper down"

    depths: tuple[float, ...] = (0.0, 0.625)
    gaussian: float = 1.0
    enough: float = 0.5
    blind_depth: float = 0.5
    relevance_power: float = 1.0
    where: Literal["llm", "encoder"] = "llm"  # type: ignore[misc]
    needs_before_prune_layer: ClassVar[bool] = False

    def __post_init__(self) -> None:
        depths = self.depths
        if (
            not depths
            or list(depths) != sorted(set(depths))
            or not 0 <= depths[0] <= depths[-1] < 1
        ):
            raise MethodError(f"depths={depths} must be at least one, ascending in [0, 1).")
        for setting in ("gaussian", "relevance_power"):
            if getattr(self, setting) < 0:
                raise MethodError(f"{setting}={getattr(self, setting)} must not be negative.")
        if not 0 < self.enough <= 1:
            raise MethodError(f"enough={self.enough} is outside (0, 1].")
        super().__post_init__()

    @property
    def default_layer(self) -> int:  # type: ignore[override]
        return 0 if self.where == "encoder" else 2

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset() if self.where == "encoder" else frozenset({"attention"})

    def steps(self, num_layers: int, first_layer: int) -> tuple[Step, ...]:
        found = super().steps(num_layers, first_layer)
        return tuple(
            replace(step, needs=frozenset()) if self.is_blind(step.layer, num_layers) else step
            for step in found
        )

    def layers(self, num_layers: int, first_layer: int) -> tuple[int, ...]:
        one = super().layers(num_layers, first_layer)  # checks prune_layer
        if self.where == "encoder":
            return one
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
        return geometric_counts(total, num_tokens, spans_of(layers, num_layers), self.enough)

    def kernel(self, visual: VisualTokens) -> Pairs:
        """K of all tokens, not conditioned on anything; `matrix()` of it is [G, N, N] float64."""
        # float64: what is left of near copies of chosen tokens is rounding in float32.
        mean = visual.hidden.mean(dim=1, keepdim=True, dtype=torch.float64)
        return SpreadKernel(visual.hidden - mean, self.gaussian)

    def demand(self, num_images: int, num_tokens: int, width: int, keep: int) -> Demand:
        return Demand(
            what=f"a Cholesky factor of {keep:,} x {num_tokens:,}",
            bytes=log_det_bytes(num_images, num_tokens, width, keep),
        )

    def plan(self, visual: VisualTokens, keep: int) -> KeepPlan:
        kernel, scores = self.kernel(visual), {}
        if visual.attention is not None:
            scores["relevance"] = min_max(visual.attention.mean(dim=1))
            weight = scores["relevance"].double().pow(self.relevance_power)
            kernel = Weighted(kernel, weight)
        chosen, _ = greedy_log_det(kernel, keep)
        return keep_only(chosen, visual.num_tokens, scores)


class SpreadKernel(Gram):
    """c_i c_j / s^2 + g exp(-|c_i - c_j|^2 / 2 s^2) with s^2 the mean squared length.

    Args:
        centred: c [G, N, D] float64.
        gaussian: g.
    """

    def __init__(self, centred: Tensor, gaussian: float) -> None:
        super().__init__(centred)
        self.gaussian = gaussian
        self.square = super().diagonal()  # [G, N]
        # Tokens that are all alike have nothing to stand out by.
        self.scale = self.square.mean(dim=-1).clamp_min(torch.finfo(self.square.dtype).tiny)

    def diagonal(self) -> Tensor:
        return self.square / self.scale.unsqueeze(-1) + self.gaussian

    def rows(self, index: Tensor) -> Tensor:
        return self._spread(super().rows(index), self.square.gather(1, index), self.square)

    def block(self, index: Tensor) -> Tensor:
        square = self.square.gather(1, index)
        return self._spread(super().block(index), square, square)

    def matrix(self) -> Tensor:
        return self._spread(super().matrix(), self.square, self.square)

    def image(self, number: int) -> Pairs:
        return SpreadKernel(self.x[number : number + 1], self.gaussian)

    def _spread(self, products: Tensor, of_rows: Tensor, of_columns: Tensor) -> Tensor:
        products.div_(self.scale[:, None, None])
        if not self.gaussian:
            return products
        half_rows, half_columns = (x / (2 * self.scale[:, None]) for x in (of_rows, of_columns))
        # -|c_i - c_j|^2 / 2 s^2; of a token and itself rounding may be on either side of 0.
        apart = products - half_rows.unsqueeze(-1)
        apart.sub_(half_columns.unsqueeze(1)).clamp_max_(0)
        return products.add_(apart.exp_(), alpha=self.gaussian)
