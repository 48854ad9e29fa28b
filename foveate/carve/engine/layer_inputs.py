"""What a decoder layer is called with once rows are gone: mask, positions, what each token has.

Layers of one pass mostly share these, so each is built once and remembered.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from foveate.carve.engine.per_token import (
    is_per_token,
    lengths_of_tables,
    narrow_entries,
    narrow_tables,
)
from foveate.core.layout import PAD
from foveate.errors import UnsupportedModeError, UnsupportedModelError
from foveate.models.cache_argument import NAMES as CACHE_NAMES
from foveate.models.masks import (
    is_flash,
    narrow_mask,
    narrow_padding,
    narrow_tokens,
    weigh_keys,
)

# Looked at by name, not as one entry for each token.
_KNOWN = (
    "hidden_states",
    "attention_mask",
    "position_embeddings",
    "position_ids",
    *CACHE_NAMES,
    "shared_kv_states",
    "prev_topk_indices",
)


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
                return torch.where(rows == PAD, PAD, rows + self.past) if self.past else rows
            every = torch.arange(self.past, self.past + self.length, device=self.device)
            return every.expand(self.batch, -1)

        result: Tensor = self.remember(("queries", id(rows)), rows, build)
        return result

    def key_idx(self, held: Tensor, query_idx: Tensor) -> Tensor:
        """Original positions of a layer's keys: what its cache holds, then the queries' own."""
        if not held.shape[1]:
            return query_idx
        result: Tensor = self.remember(
            ("keys", id(held), id(query_idx)),
            (held, query_idx),
            lambda: torch.cat([held, query_idx.to(held.device)], dim=1),
        )
        return result

    def every_position(self) -> Tensor:
        """Original positions of every token so far, [B, past + S]."""

        def build() -> Tensor:
            every = torch.arange(self.past + self.length, device=self.device)
            return every.expand(self.batch, -1)

        result: Tensor = self.remember(("every position",), None, build)
        return result

    def last(self, query_idx: Tensor, count: int) -> Tensor:
        """The last `count` of the queries; `query_idx` itself if these are all."""
        if count == query_idx.shape[1]:
            return query_idx
        result: Tensor = self.remember(
            ("last", id(query_idx), count), query_idx, lambda: query_idx[:, -count:]
        )
        return result

    def mask(
        self,
        mask: Any,
        query_idx: Tensor,
        key_idx: Tensor,
        has_empty: bool,
        num_rows: int | None = None,
    ) -> Tensor | None:
        """The layer's mask, narrowed to its queries and keys; see `narrow_mask`.

        Args:
            num_rows: of the mask, where the model itself cut it to the last tokens; None for one
                of each new token.

        Raises:
            UnsupportedModeError: the mask is not of one row a query and one column a token.
        """
        num_rows = self.length if num_rows is None else num_rows
        if isinstance(mask, Tensor) and mask.ndim == 4:
            size = (num_rows, self.past + self.length)
            if tuple(mask.shape[2:]) != size:
                raise UnsupportedModeError(
                    f"the attention mask is {tuple(mask.shape[2:])} where {size} was expected, a "
                    "row for each new token and a column for each token so far; foveate cannot "
                    "tell which columns dropped tokens have."
                )
        result: Tensor | None = self.remember(
            ("mask", id(mask), id(query_idx), id(key_idx)),
            (mask, query_idx, key_idx),
            lambda: narrow_mask(
                mask,
                query_idx,
                key_idx,
                has_empty=has_empty,
                attention=self.kernel,
                past=self.past + self.length - num_rows,
            ),
        )
        return result

    def key_sizes(
        self, held: Tensor | None, new: Tensor | None, num_held: int, num_new: int
    ) -> Tensor | None:
        """Log sizes [B, L + Q] of a layer's keys; None where all count once.

        Args:
            held: [B, L] of what its cache holds; None where all of that count once.
            new: [B, Q] of the queries' own; None likewise.
            num_held, num_new: L and Q.
        """
        if held is None and new is None:
            return None

        def build() -> Tensor:
            parts = [
                torch.zeros(self.batch, count, device=self.device) if part is None else part
                for part, count in ((held, num_held), (new, num_new))
            ]
            return torch.cat([part.to(self.device) for part in parts], dim=1)

        result: Tensor = self.remember(
            ("sizes", id(held), id(new), num_held, num_new), (held, new), build
        )
        return result

    def weighed(
        self,
        mask: Tensor | None,
        log_sizes: Tensor,
        query_idx: Tensor,
        key_idx: Tensor,
        dtype: torch.dtype,
    ) -> Tensor:
        """A narrowed mask with the sizes of keys on it; see `weigh_keys`."""
        result: Tensor = self.remember(
            ("weighed", id(mask), id(log_sizes), id(query_idx), id(key_idx), dtype),
            (mask, log_sizes, query_idx, key_idx),
            lambda: weigh_keys(
                mask, log_sizes, query_idx, key_idx, attention=self.kernel, dtype=dtype
            ),
        )
        return result

    def padding(self, mask: Any, query_idx: Tensor, has_empty: bool) -> Tensor | None:
        """The mask of a layer that keeps a state; see `narrow_padding`."""
        result: Tensor | None = self.remember(
            ("padding", id(mask), id(query_idx)),
            (mask, query_idx),
            lambda: narrow_padding(mask, query_idx, past=self.past, has_empty=has_empty),
        )
        return result

    def narrow_rest(self, kwargs: dict[str, Any], rows: Tensor, *, own_topk: bool) -> None:
        """What goes with tokens: positions, and whatever else has one entry for each.

        Args:
            kwargs: of the layer, changed in place.
            rows: [B, L] columns of the new tokens that are left.
            own_topk: the layer finds the keys that its queries look at itself.

        Raises:
            UnsupportedModelError: an input has integers for each token.
        """
        self.narrow_positions(kwargs, rows)
        topk = kwargs.get("prev_topk_indices")
        if topk is not None and topk.shape[1] != rows.shape[1]:
            if not own_topk:
                raise UnsupportedModelError(
                    "this layer looks at the keys that an earlier one chose among all tokens, so "
                    "none can be dropped before it; choose a layer with an indexer of its own."
                )
            kwargs["prev_topk_indices"] = None
        for name, value in list(kwargs.items()):
            if name not in _KNOWN and is_per_token(name, value, self.batch, self.length):
                kwargs[name] = self.remember(
                    ("entries", name, id(value), id(rows)),
                    (value, rows),
                    functools.partial(narrow_entries, value, rows),
                )

    def narrow_positions(self, kwargs: dict[str, Any], rows: Tensor) -> None:
        """Original positions go with their tokens: rotary tables and position ids.

        Raises:
            UnsupportedModeError: there is not one of each new token. Qwen2-VL numbers the cached
                tokens too where images come in a later turn, and fails by itself.
        """
        tables = kwargs.get("position_embeddings")
        if tables is not None:
            self._check_counts(lengths_of_tables(tables))
            kwargs["position_embeddings"] = self.remember(
                ("rotary", id(tables), id(rows)),
                (tables, rows),
                lambda: narrow_tables(tables, rows),
            )
        position_ids = kwargs.get("position_ids")
        if position_ids is not None:
            self._check_counts([position_ids.shape[-1]])
            narrowed = self.remember(
                ("positions", id(position_ids), id(rows)),
                (position_ids, rows),
                lambda: narrow_tokens(position_ids, rows, token_dim=-1),
            )
            kwargs["position_ids"] = narrowed

    def _check_counts(self, counts: Sequence[int]) -> None:
        wrong = [count for count in counts if count != self.length]
        if wrong:
            raise UnsupportedModeError(
                f"the model made positions of {wrong[0]} tokens for {self.length} new ones, so "
                "foveate cannot tell which belong to what is left; give the whole conversation as "
                "one prompt, without past_key_values."
            )

    def spare_flash(self, kwargs: dict[str, Any]) -> None:
        """Last: flash kernels take gaps in position ids for borders between sequences.

        Rotary needs the tables only, so nothing is lost.
        """
        if is_flash(self.kernel):
            kwargs["position_ids"] = None


def by_name(
    layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A decoder layer's inputs behind the hidden states by their names."""
    if len(args) < 2:
        return args, kwargs
    names = _parameters(type(layer))[1 : len(args)]
    return args[:1], {**dict(zip(names, args[1:], strict=True)), **kwargs}


@functools.lru_cache(maxsize=64)
def _parameters(kind: type[nn.Module]) -> tuple[str, ...]:
    return tuple(inspect.signature(kind.forward).parameters)[1:]
