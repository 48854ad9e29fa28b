"""PixelPrune: patches that their neighbours predict never reach the tower (arXiv:2604.00886)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from foveate.carve.tower_method import PatchDropping
from foveate.core.patch_prediction import stand_ins, unpredicted
from foveate.errors import MethodError


@dataclass(frozen=True, kw_only=True)
class PixelPrune(PatchDropping):
    """Lossless in pixels: on pages and screens most patches follow from those around them.

    Each patch (of merged patches: what becomes one visual token) is predicted from its left, upper
    and upper left neighbours by the edge rule of LOCO-I, as in JPEG-LS, and goes if no value is
    further than `threshold` from its prediction. Positions of the others stay, and the tower and
    the language model run on these alone. With threshold 0 the picture can be rebuilt from them
    (`core.patch_prediction.rebuild`).

    For the towers of Qwen2-VL, Qwen2.5-VL and Qwen3-VL. Qwen3-VL's first decoder layers cannot lose
    tokens: until then each token that went is a copy of a neighbour's that stayed.

    Args:
        threshold: 0 or more, in the units of the processor's normalised pixels. Above 0 predictions
            are still from the pixels as they are, so that along a slow gradient errors of what
            could be rebuilt add up to many times the threshold.
    """

    name = "pixelprune"
    summary = "leaves out patches that their neighbours predict, before the vision tower"
    paper = "arXiv:2604.00886"
    fidelity = "as the published rule (OPPO-Mente-Lab/PixelPrune); no recording to hold it to"

    threshold: float = 0.0

    def __post_init__(self) -> None:
        if self.threshold < 0:
            raise MethodError(f"threshold={self.threshold} is negative; use 0 or more.")
        super().__post_init__()

    def owners(self, patches: Tensor) -> Tensor:
        return stand_ins(patches, unpredicted(patches, self.threshold))
