"""Where latents look: each stands for one token of its strip and takes in a few around it.

The renderer knows where every character was drawn, so a latent can be pointed at its token's place
instead of searching for it. Which tokens are pointed at is `choose_targets`' business; here that
choice becomes places on the strips.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foveate.text_image.strips import Strips
from foveate.vist.latents.targets import TargetConfig, choose_targets

__all__ = ["Glances", "glances_of", "stack_glances"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Glances:
    """Tokens on P strips, and the ones that each of N latents takes in.

    Attributes:
        left, right: float32 [P, T], edges of the tokens in patches from the strip's left; 0 at
            padding.
        token_mask: bool [P, T], True = a token.
        members: int64 [P, N, 1 + Q], the token of a latent and the ones it packs, as indices into
            T; -1 = none. A latent without a token of its own does not count.
        positions: float32 [P, N], index of the latent's own token in the text; 0 where none.
    """

    left: Tensor
    right: Tensor
    token_mask: Tensor
    members: Tensor
    positions: Tensor

    @property
    def mask(self) -> Tensor:
        """Latents that stand for a token, bool [P, N]."""
        return self.members[..., 0] >= 0

    def __len__(self) -> int:
        return len(self.left)

    def __getitem__(self, pages: slice) -> Glances:
        return Glances(**{name: value[pages] for name, value in vars(self).items()})

    def to(self, device: torch.device | str) -> Glances:
        """The same on another device."""
        return Glances(**{name: value.to(device) for name, value in vars(self).items()})


def glances_of(
    strips: Strips,
    offsets: NDArray[np.integer],
    *,
    num_latents: int,
    choice: TargetConfig,
    rarity: NDArray[np.floating] | None = None,
) -> Glances:
    """Point the latents of strips at tokens.

    Args:
        strips: of a text.
        offsets: int [T, 2], first character of each token and the one after its last, ascending.
        num_latents: N of a strip.
        choice: which tokens; one member a latent ("pooled" has several, and cannot be pointed at).
        rarity: see choose_targets.

    A token across the border of two strips belongs to the strip it ends in. One without characters
    of its own (a byte of a character that an earlier token ended) shares that character's place.
    """
    spans = np.asarray(offsets, dtype=np.int64).reshape(-1, 2)
    pages, patch = len(strips), strips.style.patch
    last = np.maximum(spans[:, 1] - 1, spans[:, 0]).clip(0, max(0, len(strips.char_page) - 1))
    page = strips.char_page[last].astype(np.int64)
    found = choose_targets(
        page,
        strips.char_patch[last],
        num_pages=pages,
        num_patches=strips.patch_mask.shape[1],
        num_latents=num_latents,
        config=choice,
        rarity=rarity,
    )
    starts = np.searchsorted(page, np.arange(pages + 1))
    longest = max(1, int(np.diff(starts).max(initial=1)))
    # The part of a token that its strip shows.
    first = np.maximum(spans[:, 0], np.searchsorted(strips.char_page, page))
    within = np.arange(len(page)) - starts[page]
    left = np.zeros((pages, longest), dtype=np.float32)
    right, mask = np.zeros_like(left), np.zeros((pages, longest), dtype=bool)
    if len(spans):
        left[page, within] = strips.char_left[first] / patch
        right[page, within] = strips.char_right[last] / patch
        mask[page, within] = True
    members = np.concatenate([found.members[..., :1], found.packed], axis=-1)
    members = np.where(members >= 0, members - starts[:-1, None, None], -1)
    return Glances(
        left=torch.from_numpy(left),
        right=torch.from_numpy(right),
        token_mask=torch.from_numpy(mask),
        members=torch.from_numpy(members),
        positions=torch.from_numpy(found.positions),
    )


def stack_glances(parts: Sequence[Glances]) -> Glances:
    """Strips of several texts, one after the other, padded to the most tokens."""
    longest = max(part.left.shape[1] for part in parts)
    widest = max(part.members.shape[2] for part in parts)

    def wider(x: Tensor, size: int, fill: float = 0.0) -> Tensor:
        shape = (*x.shape[:-1], size - x.shape[-1])
        return torch.cat([x, x.new_full(shape, fill)], dim=-1) if shape[-1] else x

    return Glances(
        left=torch.cat([wider(part.left, longest) for part in parts]),
        right=torch.cat([wider(part.right, longest) for part in parts]),
        token_mask=torch.cat([wider(part.token_mask, longest) for part in parts]),
        members=torch.cat([wider(part.members, widest, -1) for part in parts]),
        positions=torch.cat([part.positions for part in parts]),
    )
