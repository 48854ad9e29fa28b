"""Keys that count several times, in kernels that add no mask to their logits.

softmax(s q.k_j + log n_j) is what n_j equal keys would get together. A flash kernel takes no such
bias, but it multiplies whatever columns q and k have:

    s q.k_j + log n_j = s [q, 1].[k_j, log(n_j) / s].

Half precision would round the new column, so it is three: what bfloat16 holds of it, what it holds
of the rest, and of what is left then. These sum to float32, and any kernel sums in float32.

The sizes travel with the mask of the layer, so that a layer that is run again for its gradient
finds them too.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

PARTS = 3
_NAME = "foveate_key_sizes"  # of an attribute of masks


class KeySizes:
    """How often the keys of a layer count.

    Args:
        log_sizes: [B, L] float32.
        is_needed: whether the mask it travels with says anything itself.

    Attributes:
        num_asked, num_read: layers that were called with it, and that attended with it.
    """

    def __init__(self, log_sizes: Tensor, *, is_needed: bool) -> None:
        self.log_sizes = log_sizes
        self.is_needed = is_needed
        self.num_asked = 0
        self.num_read = 0


def with_sizes(mask: Tensor | None, log_sizes: Tensor) -> Tensor:
    """A mask of a flash kernel, 2-D [B, L] or None for all, that the sizes of keys travel with."""
    carried = torch.ones_like(log_sizes, dtype=torch.long) if mask is None else mask.clone()
    setattr(carried, _NAME, KeySizes(log_sizes, is_needed=mask is not None))
    return carried


def sizes_of(mask: Any) -> KeySizes | None:
    """What travels with a mask."""
    return getattr(mask, _NAME, None)


def widened(query: Tensor, key: Tensor, log_sizes: Tensor, scaling: float) -> tuple[Tensor, Tensor]:
    """q and k whose scaled products have the log sizes on them.

    Args:
        query: [B, H, Q, D].
        key: [B, H_kv, L, D].
        log_sizes: [B, L] float32.
        scaling: factor on the products.

    Returns:
        [B, H, Q, D + C] and [B, H_kv, L, D + C], C >= 3, D + C a multiple of 8.
    """
    left = log_sizes.to(key.device).float() / scaling
    more = PARTS + -(key.shape[-1] + PARTS) % 8
    columns = key.new_zeros(*key.shape[:-1], more)
    for i in range(PARTS):
        part = left.bfloat16().float()
        columns[..., i] = part[:, None].to(key.dtype)
        left = left - part
    ones = query.new_ones(*query.shape[:-1], more)
    return torch.cat([query, ones], dim=-1), torch.cat([key, columns], dim=-1)
