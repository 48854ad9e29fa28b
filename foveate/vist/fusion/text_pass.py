"""One call of a decoder beside memories: where its tokens stand, what they see, and the mask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from foveate.errors import UnsupportedModeError
from foveate.models.cache_argument import cache_in
from foveate.models.masks import valid_tokens
from foveate.vist.fusion.fusion import PrefixCache
from foveate.vist.fusion.memory_cache import MemoryRows, rows_in


@dataclass
class TextPass:
    """One call of the decoder: which text rows come, and what they read.

    Args:
        inputs: the call's arguments by name.
        batch, length: of the new tokens.
        past: tokens in the KV cache.
        positions: [B or 1, Q] of the new tokens within their own text, padding not counted.
        cache: the call's, if it was given one.
        prefix: what the rows read; None where the cache holds it.
        rows: where the memories stand; the cache's own where it holds them.
    """

    inputs: Mapping[str, Any]
    batch: int
    length: int
    past: int
    positions: Tensor
    cache: Any = None
    prefix: PrefixCache | None = None
    rows: MemoryRows | None = None
    puts: bool = False  # whether the cache takes the memory in
    after: Tensor | None = None  # [B, Q] bool: which rows come after their memory
    sees: Tensor | None = None  # [B, Q, M] bool: which rows see which latents
    rotary: tuple[Tensor, Tensor] | None = None
    residual: Tensor | None = None
    masks: dict[tuple[int, int, int], tuple[Any, Tensor]] = field(default_factory=dict)

    @classmethod
    def of(cls, inputs: Mapping[str, Any]) -> TextPass:
        tokens = inputs.get("input_ids")
        tokens = tokens if tokens is not None else inputs.get("inputs_embeds")
        if tokens is None:
            raise UnsupportedModeError(
                "the model was called with neither input_ids nor inputs_embeds."
            )
        batch, length = tokens.shape[:2]
        cache = cache_in(inputs)
        past = int(cache.get_seq_length()) if cache is not None else 0
        positions, mask = inputs.get("position_ids"), inputs.get("attention_mask")
        if positions is None:
            if isinstance(mask, Tensor) and mask.ndim == 2:
                positions = (mask.long().cumsum(dim=1) - 1).clamp_min(0)[:, -length:]
            else:
                positions = torch.arange(past, past + length, device=tokens.device)[None]
        return cls(inputs, batch, length, past, positions.to(tokens.device), cache)

    @property
    def held(self) -> MemoryRows | None:
        """The memories that the cache holds beside its text, None without one."""
        return rows_in(self.cache) if self.past else None

    @property
    def sees_all(self) -> bool:
        """Whether every row is known to see every latent and all text."""
        rows = self.rows
        return self.length == 1 and rows is not None and rows.is_full and self.is_after

    @property
    def is_after(self) -> bool:
        """Whether all new tokens are known to come after the memories."""
        assert self.rows is not None
        first = self.rows.after_from
        return first is not None and self.past >= first

    @property
    def valid(self) -> Tensor:
        """Which new tokens are real, [B, Q] bool."""
        mask = self.inputs.get("attention_mask")
        return valid_tokens(mask, self.batch, self.length, self.positions.device)

    def place(self, rows: MemoryRows) -> None:
        """Move the new tokens on by the memories before them, and tell which latents they see."""
        self.rows = rows
        if self.is_after:
            self.positions = self.positions + rows.spans
            self.sees = rows.mask[:, None].expand(-1, self.length, -1)
            return
        self.after = self.positions >= rows.at
        self.positions = self.positions + rows.spans * self.after
        self.sees = self.after[:, :, None] & rows.mask[:, None]


def widened(mask: Any, text: TextPass, num_columns: int, first: int) -> Tensor:
    """A 4-D mask [B, 1 or H, Q, M + kv] in the form `mask` has; None becomes a bool one.

    Args:
        num_columns, first: of the raw text's keys, where `mask` is None.
    """
    assert text.sees is not None
    sees = text.sees.unsqueeze(1)  # [B, 1, Q, M]
    if mask is None:
        place = torch.arange(first, first + num_columns, device=sees.device)
        row = torch.arange(text.past, text.past + text.length, device=sees.device)
        mask = (place[None] <= row[:, None]).expand(text.batch, 1, -1, -1)
    if not isinstance(mask, Tensor) or mask.ndim != 4:
        raise UnsupportedModeError(
            f"the attention mask is a {type(mask).__name__} that cannot be widened for a memory; "
            "load the model with attn_implementation 'sdpa' or 'eager'."
        )
    mask = mask.expand(text.batch, -1, -1, -1)
    sees = sees.expand(-1, mask.shape[1], -1, -1)
    if mask.dtype != torch.bool:
        lowest = torch.finfo(mask.dtype).min
        sees = torch.zeros_like(sees, dtype=mask.dtype).masked_fill(~sees, lowest)
    return torch.cat([sees, mask], dim=-1)
