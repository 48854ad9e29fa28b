"""What a decoder layer is called with once rows are gone: mask, positions, rotary tables.

Layers of one pass mostly share these, so each is built once and remembered.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from foveate.core.layout import PAD
from foveate.models.masks import is_flash, narrow_mask, narrow_tokens


@dataclass
class LayerInputs:
    """Builds and remembers the inputs of one pass.

    Args:
        kernel: name of the attention implementation.
        batch, length: of the new tokens.
        past: uncompressed length of the cache before the pass.
        device: of the new tokens.
    """

    kernel: str
    batch: int
    length: int
    past: int
    device: torch.device
    _memo: dict[tuple[Any, ...], tuple[Any, Any]] = field(default_factory=dict)

    def remember(self, key: tuple[Any, ...], alive: Any, build: Callable[[], Any]) -> Any:
        """Build once a pass; `alive` keeps objects whose ids are in `key`, so ids stay unique."""
        if key not in self._memo:
            self._memo[key] = (alive, build())
        return self._memo[key][1]

    def query_idx(self, rows: Tensor | None) -> Tensor:
        """Original positions of a layer's queries, [B, Q]; PAD for fillers.

        Args:
            rows: [B, L] columns of the new tokens that are left; None for all.
        """

        def build() -> Tensor:
            if rows is not None:
                return torch.where(rows == PAD, PAD, rows + self.past)
            every = torch.arange(self.past, self.past + self.length, device=self.device)
            return every.expand(self.batch, -1)

        result: Tensor = self.remember(("queries", id(rows)), rows, build)
        return result

    def key_idx(self, held: Tensor, query_idx: Tensor) -> Tensor:
        """Original positions of a layer's keys: what its cache holds, then the queries' own."""
        result: Tensor = self.remember(
            ("keys", id(held), id(query_idx)),
            (held, query_idx),
            lambda: torch.cat([held, query_idx.to(held.device)], dim=1),
        )
        return result

    def mask(self, mask: Any, query_idx: Tensor, key_idx: Tensor, has_empty: bool) -> Tensor | None:
        """The layer's mask, narrowed to its queries and keys; see `narrow_mask`."""
        result: Tensor | None = self.remember(
            ("mask", id(mask), id(query_idx), id(key_idx)),
            (mask, query_idx, key_idx),
            lambda: narrow_mask(
                mask,
                query_idx,
                key_idx,
                has_empty=has_empty,
                attention=self.kernel,
                past=self.past,
            ),
        )
        return result

    def narrow_positions(self, kwargs: dict[str, Any], rows: Tensor) -> None:
        """Original positions go with their tokens: rotary tables and position ids."""
        tables = kwargs.get("position_embeddings")
        if tables is not None:
            kwargs["position_embeddings"] = self.remember(
                ("rotary", id(tables), id(rows)),
                (tables, rows),
                lambda: tuple(narrow_tokens(table, rows, token_dim=-2) for table in tables),
            )
        position_ids = kwargs.get("position_ids")
        if position_ids is not None:
            narrowed = self.remember(
                ("positions", id(position_ids), id(rows)),
                (position_ids, rows),
                lambda: narrow_tokens(position_ids, rows, token_dim=-1),
            )
            kwargs["position_ids"] = narrowed

    def spare_flash(self, kwargs: dict[str, Any]) -> None:
        """Last: flash kernels take gaps in position ids for borders between sequences.

        Rotary needs the tables only, so nothing is lost.
        """
        if is_flash(self.kernel):
            kwargs["position_ids"] = None
