"""VisualTokens: everything a method may look at, for images of one size at a time."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class VisualTokens:
    """The visual tokens of G images with N tokens each, as they enter the prune layer.

    Args:
        hidden: [G, N, D], residual stream entering the prune layer (output of the layer before it).
        attention: [G, H, N] float32, softmax attention of the last prompt token of each image's
            sample over its visual tokens, in the layer before the prune layer; None unless asked
            for.
        attention_output: [G, N, D], output of that layer's attention block (after its output
            projection); None unless asked for.
        grids: per image (rows, columns) of the token grid, or None where tokens form no single
        grid.
        serials: per image a running number within the run; seeds randomness, so that results do not
            depend on how images were batched.
    """

    hidden: Tensor
    attention: Tensor | None = None
    attention_output: Tensor | None = None
    grids: tuple[tuple[int, int] | None, ...] = ()
    serials: tuple[int, ...] = ()

    @property
    def num_images(self) -> int:
        return int(self.hidden.shape[0])

    @property
    def num_tokens(self) -> int:
        return int(self.hidden.shape[1])
