"""Images without content: what a layer's attention gives to places alone is read off them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from foveate.carve.engine.image_state import ImageState, places_of
from foveate.core.layout import columns_of


def with_dummies(
    hidden: Tensor, states: Sequence[ImageState], rows: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Hidden states with the mean of each image in place of all its tokens, and where these are.

    Args:
        hidden: [B, L, D].
        states: of the images.
        rows: [B, L] columns of the prompt that are left; None for all.

    Returns:
        [B, L, D] and [B, L] bool.
    """
    hidden = hidden.detach().clone()
    is_dummy = torch.zeros(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
    for state in states:
        samples, tokens = places_of([state], hidden.device)
        own = rows[samples[:, 0].to(rows.device)] if rows is not None else None
        places = columns_of(tokens, own).to(hidden.device)
        mean = hidden[samples, places].mean(dim=1, keepdim=True, dtype=torch.float32)
        hidden[samples, places] = mean.to(hidden.dtype)
        is_dummy[samples, places] = True
    return hidden, is_dummy
