"""Where latents look: each stands for one token of its strip and takes in a few around it.

The renderer knows where every character was drawn, so a latent can be pointed at its token instead
of searching for it. Which tokens are pointed at is `choose_targets`' business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor

from foveate.text_image.strips import Strips
from foveate.vist.latents.targets import TargetConfig, choose_targets

__all__ = ["Glances", "glances_of", "stack_glances"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Glances:
    """The tokens that each of N latents of P strips takes in.

    Attributes:
        members: int64 [P, N, 1 + Q], the token of a latent and the ones it packs, as indices into
            the tokens of the whole text; -1 = none. A latent without a token of its own does not
            count.
        positions: float32 [P, N], index of the latent's own token in its text; 0 where none.
        num_tokens: T of the text.
    """

    members: Tensor
    positions: Tensor
    num_tokens: int

    @property
    def mask(self) -> Tensor:
        """Latents that stand for a token, bool [P, N]."""
        return self.members[..., 0] >= 0

    def __len__(self) -> int:
        return len(self.members)

    def __getitem__(self, pages: slice) -> Glances:
        return Glances(
            members=self.members[pages],
            positions=self.positions[pages],
            num_tokens=self.num_tokens,
        )

    def to(self, device: torch.device | str) -> Glances:
        """The same on another device."""
        return Glances(
            members=self.members.to(device),
            positions=self.positions.to(device),
            num_tokens=self.num_tokens,
        )


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
    last = np.maximum(spans[:, 1] - 1, spans[:, 0]).clip(0, max(0, len(strips.char_page) - 1))
    found = choose_targets(
        strips.char_page[last].astype(np.int64),
        strips.char_patch[last],
        num_pages=len(strips),
        num_patches=strips.patch_mask.shape[1],
        num_latents=num_latents,
        config=choice,
        rarity=rarity,
    )
    members = np.concatenate([found.members[..., :1], found.packed], axis=-1)
    return Glances(
        members=torch.from_numpy(members),
        positions=torch.from_numpy(found.positions),
        num_tokens=len(spans),
    )


def stack_glances(parts: Sequence[Glances]) -> Glances:
    """Strips of several texts, one after the other; members count the tokens of all texts."""
    widest = max(part.members.shape[2] for part in parts)
    starts = np.cumsum([0, *(part.num_tokens for part in parts)]).tolist()
    members = [
        torch.where(m >= 0, m + start, -1)
        for start, m in zip(
            starts,
            (F.pad(p.members, (0, widest - p.members.shape[2]), value=-1) for p in parts),
            strict=False,
        )
    ]
    return Glances(
        members=torch.cat(members),
        positions=torch.cat([part.positions for part in parts]),
        num_tokens=starts[-1],
    )
