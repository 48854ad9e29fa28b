"""Episodes as tensors: token ids, which are answers, and which far tokens a carving may keep.

All of it is made where the data is loaded, in processes of its own where an accelerator waits.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from foveate.models.token_offsets import tokenise
from foveate.text_image.render import Renderer
from foveate.vist.forms.choose import ends_of_units
from foveate.vist.run.vist import Vist
from training.episodes.draw import Episode

__all__ = ["EpisodeBatch", "EpisodeBatches", "unit_starts"]

UNIT = 64  # longest unit, in tokens
CHOICES = ("ends", "even", "random")
# far, near, answers, kept, members
_Row = tuple[list[int], list[int], list[int], list[int], Tensor]
SHARES = (0.8, 0.1, 0.1)  # how often each is drawn


@dataclass(frozen=True, kw_only=True)
class EpisodeBatch:
    """B episodes.

    Args:
        far: [B, N] int64 token ids, padding on the right.
        far_mask: [B, N] bool.
        near: [B, T] int64 token ids, padding on the left.
        near_mask: [B, T] bool.
        is_answer: [B, T] bool, tokens to learn from; never a row's first.
        kept: [B, K] int64, far tokens that a carving keeps, ascending, padding (0) on the right.
        kept_mask: [B, K] bool.
        members: [B, M, 1 + Q] int64, far tokens of each latent that the drawn text gets, see
            Glances; -1 is none. M = 0 where latents were not asked for.
    """

    far: Tensor
    far_mask: Tensor
    near: Tensor
    near_mask: Tensor
    is_answer: Tensor
    kept: Tensor
    kept_mask: Tensor
    members: Tensor

    def to(self, device: torch.device) -> EpisodeBatch:
        """The same on another device."""
        return EpisodeBatch(
            **{f.name: getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)}
        )


class EpisodeBatches(Dataset[EpisodeBatch]):
    """Batches by number: batch n is the same whoever makes it, and whenever.

    Args:
        episodes: drawn before.
        tokenizer: of the language model.
        size: episodes of a batch.
        share: of the far tokens that a carving keeps.
        longest: (N, T) tokens; longer episodes are passed over.
        is_static: pad to `longest` always, so that an accelerator sees one shape.
        choice: one of CHOICES, or "mixed" for each in its share.
        vist: whose latents the text gets where it is drawn; None for none.
        seed: of the order and the choices.
    """

    def __init__(
        self,
        episodes: Sequence[Episode],
        tokenizer: Any,
        *,
        size: int,
        share: float,
        longest: tuple[int, int] = (480, 224),
        is_static: bool = False,
        choice: str = "mixed",
        vist: Vist | None = None,
        seed: int = 0,
    ) -> None:
        self.episodes, self.tokenizer = episodes, tokenizer
        self.size, self.share, self.longest = size, share, longest
        self.is_static, self.choice, self.seed = is_static, choice, seed
        self.parts = None if vist is None else vist.parts
        self.renderer = None if vist is None else Renderer(vist.encoder.style)

    def __len__(self) -> int:
        return 1 << 40  # batches are drawn by number, without end

    def episode(self, number: int) -> Episode:
        """The first episode of a batch."""
        return self._rows(number)[0][0]

    def __getitem__(self, number: int) -> EpisodeBatch:
        rows = [row for _, row in self._rows(number)]
        far, near, answers, kept, members = zip(*rows, strict=True)
        longest = self.longest if self.is_static else (0, 0)
        most_kept = round(self.share * longest[0])
        far_ids, far_mask = _padded(far, longest[0], on_left=False)
        near_ids, near_mask = _padded(near, longest[1], on_left=True)
        is_answer, _ = _padded(answers, longest[1], on_left=True)
        kept_idx, kept_mask = _padded(kept, most_kept, on_left=False)
        return EpisodeBatch(
            far=far_ids, far_mask=far_mask, near=near_ids, near_mask=near_mask,
            is_answer=is_answer.bool(), kept=kept_idx, kept_mask=kept_mask,
            members=_stacked(members, most_kept),
        )  # fmt: skip

    def _rows(self, number: int) -> list[tuple[Episode, _Row]]:
        """The episodes of a batch, and what is made of each."""
        lot = random.Random(f"{self.seed}/{number}")
        rows: list[tuple[Episode, _Row]] = []
        while len(rows) < self.size:
            episode = lot.choice(self.episodes)
            made = self._row(episode, lot)
            if made is not None:
                rows.append((episode, made))
        return rows

    def _row(self, episode: Episode, lot: random.Random) -> _Row | None:
        far, offsets = tokenise(self.tokenizer, episode.far)
        near, places = tokenise(self.tokenizer, episode.near)
        if len(far) > self.longest[0] or len(near) > self.longest[1]:
            return None
        middle = places.mean(axis=1)
        answers = [int(any(a <= at < b for a, b in episode.answers)) for at in middle]
        answers[0] = 0  # nothing near stands before it
        kind = self.choice
        if kind == "mixed":
            kind = lot.choices(CHOICES, SHARES)[0]
        count = max(1, round(self.share * len(far)))
        if kind == "ends":
            kept = ends_of_units(unit_starts(episode.far, offsets), len(far), count)
        elif kind == "even":
            kept = [i * len(far) // count for i in range(count)]
        else:
            kept = sorted(lot.sample(range(len(far)), count))
        return far.tolist(), near.tolist(), answers, kept, self._members(episode.far, offsets)

    def _members(self, text: str, offsets: NDArray[np.int64]) -> Tensor:
        """Of the latents that a text gets, [M, 1 + Q]."""
        if self.parts is None or self.renderer is None:
            return torch.zeros(0, 1, dtype=torch.long)
        glances = self.parts.glances(self.renderer.render(text), offsets)
        return glances.members[glances.mask]


def unit_starts(text: str, offsets: Any) -> list[int]:
    """First tokens of the parts of a text between blank lines, none longer than UNIT tokens."""
    starts = [0]
    for token in range(1, len(offsets)):
        begins = (
            text[: offsets[token][0]].endswith("\n\n")
            or "\n\n" in text[offsets[token - 1][0] : offsets[token - 1][1]]
        )
        if begins or token - starts[-1] >= UNIT:
            starts.append(token)
    return starts


def _stacked(rows: Sequence[Tensor], least: int) -> Tensor:
    """[B, M, 1 + Q], -1 where a row has fewer."""
    longest = max(len(row) for row in rows)
    longest = max(least, longest) if longest else 0
    widest = max(row.shape[1] for row in rows)
    return torch.stack(
        [F.pad(r, (0, widest - r.shape[1], 0, longest - len(r)), value=-1) for r in rows]
    )


def _padded(rows: Sequence[Sequence[int]], least: int, *, on_left: bool) -> tuple[Tensor, Tensor]:
    longest = max(least, *(len(row) for row in rows))
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros(len(rows), longest, dtype=torch.bool)
    for place, row in enumerate(rows):
        part = slice(longest - len(row), longest) if on_left else slice(0, len(row))
        ids[place, part] = torch.tensor(row)
        mask[place, part] = True
    return ids, mask
