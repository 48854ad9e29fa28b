"""Three-dimensional rotary positions of kept tokens: they stay where they were in the full prompt.

vLLM works out a request's positions before the vision tower has run, so nothing is known then of
the tokens that will be kept. Text needs no such knowledge: an image moves what follows it by its
grid, not by its tokens. So text is placed once, and each kept token when its features arrive: they
carry their place in the image in extra columns, which survive vLLM's encoder cache and any cutting
of the prompt into chunks.

Columns hold digits below 256, because half precision has no room for larger integers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = [
    "NUM_COLUMNS",
    "Media",
    "grid_places",
    "place_tokens",
    "prompt_positions",
    "split_places",
    "with_places",
]

_BASE = 256
_DIGITS = 2
_NUMBERS = 4  # frame, row, column; the token's number among the kept ones
NUM_COLUMNS = _NUMBERS * _DIGITS


@dataclass(frozen=True)
class Media:
    """An image or video in a prompt.

    Args:
        offset: of its first placeholder.
        length: its placeholders: kept tokens.
        extent: by how much it moves the positions of what follows.
    """

    offset: int
    length: int
    extent: int


def grid_places(frames: int, rows: int, columns: int, per_frame: float = 1.0) -> Tensor:
    """Places of all tokens of an item relative to its start: [frames * rows * columns, 3] int64.

    Args:
        per_frame: positions from one frame to the next; fractions are cut off.
    """
    axes = torch.meshgrid(
        (torch.arange(frames).double() * per_frame).long(),
        torch.arange(rows),
        torch.arange(columns),
        indexing="ij",
    )
    return torch.stack([axis.flatten() for axis in axes], dim=1)


def with_places(features: Tensor, places: Tensor) -> Tensor:
    """Features with their places in extra columns.

    Args:
        features: [K, D] of any float dtype.
        places: [K, 3] int64, see `grid_places`.

    Returns:
        [K, D + NUM_COLUMNS].
    """
    number = torch.arange(len(places), device=places.device)
    numbers = torch.cat([places, number[:, None]], dim=1)  # [K, 4]
    digits = torch.stack([numbers // _BASE, numbers % _BASE], dim=-1).flatten(1)  # [K, 8]
    return torch.cat([features, digits.to(features.device, features.dtype)], dim=1)


def split_places(features: Tensor) -> tuple[Tensor, Tensor]:
    """Undo `with_places`, for all rows of an item or some.

    Returns:
        ([K, D], [K, 4] int64: frame, row, column, number among the kept tokens).
    """
    digits = features[:, -NUM_COLUMNS:].long().view(-1, _NUMBERS, _DIGITS)
    return features[:, :-NUM_COLUMNS], digits[..., 0] * _BASE + digits[..., 1]


def prompt_positions(num_tokens: int, media: Sequence[Media]) -> tuple[Tensor, int]:
    """Positions of a prompt whose kept tokens are not known yet: text is right, media is not.

    Args:
        num_tokens: of the shortened prompt.
        media: ascending.

    Returns:
        ([3, num_tokens] int64; what to add to the number of a later token for its position).
    """
    positions = torch.empty(3, num_tokens, dtype=torch.long)
    at = position = 0
    for item in media:
        num_text = item.offset - at
        positions[:, at : item.offset] = torch.arange(position, position + num_text)
        position += num_text
        at = item.offset + item.length
        positions[:, item.offset : at] = position
        position += item.extent
    positions[:, at:] = torch.arange(position, position + num_tokens - at)
    return positions, position + (num_tokens - at) - num_tokens


def place_tokens(
    positions: Tensor, media_mask: Tensor, numbers: Tensor, num_computed: int
) -> Tensor:
    """Positions with the kept tokens of one prefill chunk put in their places.

    Args:
        positions: [3, N], from `prompt_positions` or an earlier chunk; not changed.
        media_mask: [N] bool, placeholders; items have text between them.
        numbers: [R, 4] int64, of the chunk's rows in order, see `split_places`; on any device.
        num_computed: tokens of the prompt before the chunk.

    Returns:
        [3, N].
    """
    positions, numbers = positions.clone(), numbers.to(positions.device)
    at = media_mask.nonzero(as_tuple=True)[0]
    starts = torch.where(at.diff(prepend=at[:1] - 2) > 1, at, 0).cummax(0).values  # of their item
    rank = at - starts
    # A drafter looks one token ahead, so the chunk may begin one placeholder later.
    fits = (at >= num_computed) & (rank == numbers[0, 3])
    first = int(fits.nonzero()[0]) if bool(fits.any()) else len(at)
    chosen = slice(first, first + len(numbers))
    if not torch.equal(rank[chosen], numbers[:, 3]):
        raise AssertionError(
            f"{len(numbers)} rows of features do not fit the placeholders behind token "
            f"{num_computed}"
        )
    start = starts[chosen]
    before = positions[0, (start - 1).clamp_min(0)] + 1
    base = torch.where(start > 0, before, 0)
    positions[:, at[chosen]] = base + numbers[:, :3].T
    return positions
