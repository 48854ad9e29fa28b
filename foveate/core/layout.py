"""Where visual tokens sit in a batch, and which rows of it go on: index arithmetic only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from foveate.core.frames import Frames

PAD = -1  # index of a slot that holds no token


@dataclass(frozen=True, kw_only=True)
class ImageSpan:
    """One image or video of one sample.

    Args:
        sample: row of the batch.
        image: number of the image or video within its sample.
        tokens: [N] int64 on the host, columns of its visual tokens, ascending.
        grid: (rows, columns) of the token grid, None where unknown, or of a video.
        kind: "image" or "video".
        frames: of a video; None for a still image.
        start: place of its first token among all features of that kind, None where unknown.
    """

    sample: int
    image: int
    tokens: Tensor
    grid: tuple[int, int] | None = None
    kind: str = "image"
    start: int | None = None
    frames: Frames | None = None

    @property
    def num_tokens(self) -> int:
        return int(self.tokens.numel())

    @cached_property
    def first(self) -> int:
        """Column of its first visual token."""
        return int(self.tokens[0])

    @cached_property
    def last(self) -> int:
        """Column of its last visual token."""
        return int(self.tokens[-1])

    @property
    def is_contiguous(self) -> bool:
        """Whether no other token stands between its own."""
        return self.last - self.first + 1 == self.num_tokens


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on a device, without waiting for the device."""
    return tensor.to(device, non_blocking=True)


def runs(mask: Tensor) -> list[Tensor]:
    """Split the True entries of `mask` [S] into maximal contiguous runs of indices."""
    idx = mask.nonzero(as_tuple=True)[0]
    if idx.numel() == 0:
        return []
    breaks = (idx.diff() > 1).nonzero(as_tuple=True)[0] + 1
    return list(torch.tensor_split(idx, breaks))


def split_by_lengths(mask: Tensor, lengths: Sequence[int]) -> list[Tensor]:
    """Split the True entries of `mask` [S], in order, into pieces of the given lengths."""
    columns = mask.nonzero().squeeze(1)
    return [columns] if len(lengths) == 1 else list(torch.split(columns, list(lengths)))


def leading_padding(valid: Tensor) -> Tensor:
    """True for the padding before the first real token of each row of `valid` [B, S] bool, host."""
    return torch.from_numpy(~np.logical_or.accumulate(valid.numpy(), axis=-1))


def last_valid(valid: Tensor) -> Tensor:
    """Column of the last real token of each row of `valid` [B, S]; 0 where there is none. [B]"""
    columns = torch.arange(valid.shape[-1], device=valid.device)
    return torch.where(valid, columns, 0).max(dim=-1).values


def columns_of(columns: Tensor, rows: Tensor | None) -> Tensor:
    """Where `columns` [G, N] of the prompt stand among the `rows` [G, L] that are left of it.

    Args:
        rows: as from `kept_rows`; None where nothing is gone. Every column must be among them.
    """
    if rows is None:
        return columns
    return torch.searchsorted(rows.contiguous(), columns.to(rows.device).contiguous())


def kept_rows(keep_mask: Tensor, length: int) -> Tensor:
    """Columns that go on, right-aligned: shorter rows are filled with PAD on the left.

    Right alignment keeps the last token of every sample in the last column, where `generate` reads
    the next token from.

    Args:
        keep_mask: [B, S] bool.
        length: L, of the longest row: whoever made the mask knows it, and reading it off a device
            means waiting (`longest_row`).

    Returns:
        [B, L] int64, ascending within a row.
    """
    if len(keep_mask) == 1 and keep_mask.device.type == "cpu":  # nobody has to wait for the count
        return keep_mask[0].nonzero().T
    order = torch.sort(keep_mask.to(torch.uint8), dim=-1, stable=True).indices
    tail = order[:, order.shape[1] - length :]
    return torch.where(keep_mask.gather(1, tail), tail, PAD)


def columns_where(mask: Tensor, count: int) -> Tensor:
    """Columns of the True entries of `mask` [G, N] bool, `count` in each row, ascending.

    A boolean index would ask the device how many there are.

    Returns:
        [G, count] int64.
    """
    return torch.sort(mask.to(torch.uint8), dim=-1, descending=True, stable=True).indices[:, :count]


def longest_row(keep_mask: Tensor) -> int:
    """Columns of the longest row of `keep_mask` [B, S] bool, read off the device."""
    return int(keep_mask.sum(dim=-1).max())
