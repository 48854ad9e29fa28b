"""FoveaCarve: the question reads ahead, and says where to look closely. Our own method."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from foveate.carve.method import Method, Step
from foveate.carve.needs import Need
from foveate.core.demand import Demand
from foveate.core.greedy.determinant import greedy_log_det, log_det_bytes
from foveate.core.greedy.pairs import Gram, Pairs, Weighted
from foveate.core.grid_blur import grid_blur
from foveate.core.plan import KeepPlan, keep_only
from foveate.core.rank import top_k
from foveate.core.schedule import spans_of, tapered_counts, total_of_cut
from foveate.core.visual import VisualTokens
from foveate.errors import MethodError

FLOOR = 0.3  # weight of a token that the question does not look at

_OF_STEPS = ("depths", "taper", "enough")
_OF_FORESIGHT = ("look_depth", "blur")


@dataclass(frozen=True, kw_only=True)
class FoveaCarve(Method):
    """Spread out where the question looks, and later keep what it reads.

    Before the first layer nothing is known of what the question asks for, unless it reads ahead:
    the text rows alone, which are few, pass the layers up to `look_depth`. There the queries of the
    prompt's last row meet the keys that the visual tokens would have as they are now: a softmax
    over them, the mean over heads, r. A token's weight is

        w = 0.3 + 0.7 sqrt(b / max b), b the Gaussian mean of r over the token grid,

    since it is places and not tokens that the question points at. Tokens that form no single grid
    are not blurred. The first step maximises log det over what it keeps of diag(w) K diag(w),
    greedily, with C the visual tokens less their mean and s^2 their mean squared norm,

        K = exp(-|c_i - c_j|^2 / 2 s^2):

    spread out everywhere, densely where the question looks. The second step keeps the tokens of
    most attention of the last prompt row, in the layer before it.

    The budget is that of a single cut: k N + (L - k) keep token-layers for prune_layer=k in L
    layers, whatever is spent where; prune_layer=0 is the budget of methods that cut before the
    language model. What reading ahead costs (rows x layers, and the keys as a share of a layer's
    weights) is taken out of it. A prompt where it would cost more than half of the budget, or leave
    an image no token, does not read ahead, and the report says so.

    Args:
        depths: where steps act, as shares of the decoder's depth, ascending; 0 is before the first
            layer.
        taper: what each step leaves of the tokens of the one before, in (0, 1].
        enough: share of the image that answers nearly everything, in (0, 1]: the first step keeps
            no more of it while later ones keep less.
        foresight: whether the question reads ahead; without, the first step is blind, K alone.
        look_depth: how far it reads, as a share of the decoder's depth.
        blur: standard deviation of the Gaussian mean, in tokens; 0 is none.
        where: "llm", as above, or "encoder": the blind step alone, before the language model, where
            the question is not known and `depths` does not count.
    """

    name = "foveacarve"
    summary = "the question reads ahead, tokens spread out where it looks; later what it reads"

    depths: tuple[float, ...] = (0.0, 0.625)
    taper: float = 0.4
    enough: float = 0.5
    foresight: bool = True
    look_depth: float = 0.375
    blur: float = 2.0
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
        if not 0 < self.taper <= 1:
            raise MethodError(f"taper={self.taper} is outside (0, 1].")
        if not 0 < self.enough <= 1:
            raise MethodError(f"enough={self.enough} is outside (0, 1].")
        if not 0 <= self.look_depth < 1:
            raise MethodError(f"look_depth={self.look_depth} is outside [0, 1).")
        if self.blur < 0:
            raise MethodError(f"blur={self.blur} must not be negative.")
        self._refuse_unread()
        super().__post_init__()

    def _refuse_unread(self) -> None:
        """Settings that change nothing under others are mistakes.

        Raises:
            MethodError: some are set.
        """
        if self.where == "encoder":
            blind, unread = "where='encoder'", {*_OF_STEPS, *_OF_FORESIGHT}
        elif not self.foresight:
            blind, unread = "foresight=False", {*_OF_FORESIGHT}
        else:
            return
        changed = [
            f.name for f in fields(self) if f.name in unread and getattr(self, f.name) != f.default
        ]
        if changed:
            raise MethodError(
                f"{self.name} sets {' and '.join(changed)}, which its blind step ({blind}) does "
                f"not read; leave {'it' if len(changed) == 1 else 'them'} out."
            )

    @property
    def default_layer(self) -> int:  # type: ignore[override]
        return 0 if self.where == "encoder" else 2

    @property
    def needs(self) -> frozenset[Need]:
        if self.where == "encoder":
            return frozenset()
        late: frozenset[Need] = frozenset({"attention"} if len(self.depths) > 1 else ())
        return late | {"foresight"} if self.foresight else late

    def steps(self, num_layers: int, first_layer: int) -> tuple[Step, ...]:
        first, *later = super().steps(num_layers, first_layer)
        return (
            replace(first, needs=self.needs & {"foresight"}),
            *(replace(step, needs=frozenset({"attention"})) for step in later),
        )

    def layers(self, num_layers: int, first_layer: int) -> tuple[int, ...]:
        one = super().layers(num_layers, first_layer)  # checks prune_layer
        if self.where == "encoder":
            return one
        found = {max(first_layer, round(depth * num_layers)) for depth in self.depths}
        return tuple(sorted(layer for layer in found if layer < num_layers))

    def foresight_layer(self, num_layers: int) -> int:
        return round(self.look_depth * num_layers)

    def keeps(
        self, keep: int, num_tokens: int, layers: Sequence[int], num_layers: int
    ) -> tuple[int, ...]:
        cut = self.default_layer if self.prune_layer is None else self.prune_layer
        total = total_of_cut(cut, keep, num_tokens, layers, num_layers)
        spans = spans_of(layers, num_layers)
        return tapered_counts(total, num_tokens, spans, self.taper, self.enough)

    def adapt(
        self, visual: VisualTokens, keeps: Sequence[int], step: Step, num_layers: int
    ) -> tuple[int, ...]:
        spans = spans_of(step.layers, num_layers)
        total = sum(count * span for count, span in zip(keeps, spans, strict=True))

        def after(spent: float) -> tuple[int, ...]:
            # No step keeps more than without: what is enough, is.
            return tapered_counts(total - math.ceil(spent), keeps[0], spans, self.taper)

        spent = visual.spent or (0.0,) * visual.num_images
        return tuple((after(cost) if cost else keeps)[step.number] for cost in spent)

    def demand(self, num_images: int, num_tokens: int, width: int, keep: int) -> Demand:
        return Demand(
            what=f"a Cholesky factor of {keep:,} x {num_tokens:,}",
            bytes=log_det_bytes(num_images, num_tokens, width, keep),
        )

    def plan(self, visual: VisualTokens, keep: int) -> KeepPlan:
        if visual.counts:  # a later step
            assert visual.attention is not None
            read = visual.attention.mean(dim=1)  # [G, N]
            return keep_only(top_k(read, keep), visual.num_tokens, {"attention": read})
        kernel, scores = self.kernel(visual), {}
        if visual.foresight is not None:
            scores["foresight"] = weight = self.weight(visual)
            kernel = Weighted(kernel, weight.double())
        chosen, _ = greedy_log_det(kernel, keep)
        return keep_only(chosen, visual.num_tokens, scores)

    def kernel(self, visual: VisualTokens) -> Pairs:
        """K of all tokens; `matrix()` of it is [G, N, N] float64."""
        # float64: what is left of near copies of chosen tokens is rounding in float32.
        mean = visual.hidden.mean(dim=1, keepdim=True, dtype=torch.float64)
        return GaussianKernel(visual.hidden - mean)

    def weight(self, visual: VisualTokens) -> Tensor:
        """w of all tokens, [G, N] float32 in [0.3, 1]."""
        assert visual.foresight is not None
        looked_at = grid_blur(visual.foresight.float(), visual.grids, self.blur)
        most = looked_at.amax(dim=-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        return FLOOR + (1 - FLOOR) * (looked_at / most).sqrt()


class GaussianKernel(Gram):
    """exp(-|c_i - c_j|^2 / 2 s^2) with s^2 the mean squared length.

    Args:
        centred: c [G, N, D] float64.
    """

    def __init__(self, centred: Tensor) -> None:
        super().__init__(centred)
        square = super().diagonal()  # [G, N]
        # Tokens that are all alike are no distance apart, whatever it is measured in.
        self.scale = square.mean(dim=-1).clamp_min(torch.finfo(square.dtype).tiny)
        self.half = square / (2 * self.scale.unsqueeze(-1))

    def diagonal(self) -> Tensor:
        return torch.ones_like(self.half)

    def rows(self, index: Tensor) -> Tensor:
        return self._near(super().rows(index), self.half.gather(1, index), self.half)

    def block(self, index: Tensor) -> Tensor:
        half = self.half.gather(1, index)
        return self._near(super().block(index), half, half)

    def matrix(self) -> Tensor:
        return self._near(super().matrix(), self.half, self.half)

    def image(self, number: int) -> Pairs:
        return GaussianKernel(self.x[number : number + 1])

    def _near(self, products: Tensor, of_rows: Tensor, of_columns: Tensor) -> Tensor:
        products.div_(self.scale[:, None, None])
        products.sub_(of_rows.unsqueeze(-1)).sub_(of_columns.unsqueeze(1))
        return products.clamp_max_(0).exp_()  # rounding may be on either side of 0
