"""Several residual streams as one wide one, so that dropping tokens need not know of them."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from foveate.errors import UnsupportedModelError


class ResidualStreams:
    """How the hidden states of one pass are laid out: one stream, or n beside each other.

    Args:
        hidden: [B, S, D]; [B, S, n, D] (hyper-connections) or [n, B, S, D] (AltUp), as it goes
            into the first layer.
        batch, length: B and S.
    """

    def __init__(self, hidden: Tensor, batch: int, length: int) -> None:
        shape, own = tuple(hidden.shape), (batch, length)
        self._layout: Literal["one", "inner", "outer", "unknown"] = "unknown"
        self._found = f"of shape {shape} for {batch} rows of {length} tokens"
        if len(shape) == 3 and shape[:2] == own:
            self._layout = "one"
        elif len(shape) == 4 and (shape[:2] == own) != (shape[1:3] == own):
            self._layout = "inner" if shape[:2] == own else "outer"

    def check(self) -> None:
        """Raise UnsupportedModelError unless the layout is one of these.

        What went into the layer are otherwise not the new tokens, e.g. because images stand before
        them.
        """
        if self._layout == "unknown":
            raise UnsupportedModelError(
                f"the first decoder layer was called with hidden states {self._found}; foveate "
                "can only drop tokens that it can count."
            )

    def joined(self, hidden: Tensor) -> Tensor:
        """[B, L, n * D] of the hidden states that go into a layer; a single stream as it is."""
        if self._layout in ("one", "unknown"):
            return hidden
        if self._layout == "outer":
            hidden = hidden.permute(1, 2, 0, 3)
        return hidden.flatten(2)

    def apart(self, joined: Tensor, like: Tensor) -> Tensor:
        """Back to the layout of `like`, the hidden states before they were joined."""
        if self._layout in ("one", "unknown"):
            return joined
        if self._layout == "inner":
            return joined.unflatten(2, tuple(like.shape[2:]))
        return joined.unflatten(2, (like.shape[0], like.shape[3])).permute(2, 0, 1, 3)

    def num_tokens(self, hidden: Tensor) -> int:
        """L of the hidden states that go into a layer."""
        return int(hidden.shape[2 if self._layout == "outer" else 1])
