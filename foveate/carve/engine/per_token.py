"""What a decoder layer is given for each token, beside hidden states: it goes with its token."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from foveate.errors import UnsupportedModelError
from foveate.models.masks import narrow_tokens

# Pass through layers to the loss behind them, which counts columns of the whole prompt.
OF_THE_LOSS = ("labels", "shift_labels")


def narrow_tables(tables: Any, rows: Tensor) -> Any:
    """Rotary tables of the tokens that are left.

    Args:
        tables: [..., B or 1, S, D], real or complex, or a tuple, list or dict of such.
        rows: [B, L] columns that are left; PAD for fillers.
    """
    if isinstance(tables, Tensor):
        return narrow_tokens(tables, rows, token_dim=-2)
    if isinstance(tables, dict):
        return {name: narrow_tables(table, rows) for name, table in tables.items()}
    return tuple(narrow_tables(table, rows) for table in tables)


def lengths_of_tables(tables: Any) -> list[int]:
    """Of how many tokens each rotary table is; see `narrow_tables`."""
    if isinstance(tables, Tensor):
        return [int(tables.shape[-2])]
    parts = tables.values() if isinstance(tables, dict) else tables
    return [length for part in parts for length in lengths_of_tables(part)]


def is_per_token(name: str, value: Any, batch: int, length: int) -> bool:
    """Whether a layer's input has one entry for each token that can go with it.

    Args:
        name: of the input.
        value: a tensor [B or 1, S, ...] is; other things are not.
        batch, length: B and S, before anything was dropped.

    Raises:
        UnsupportedModelError: it has one integer or more for each token. They may be places of
            other tokens, which would be wrong in a shorter row.
    """
    if not isinstance(value, Tensor) or value.ndim < 2 or name in OF_THE_LOSS:
        return False
    if value.shape[1] != length or value.shape[0] not in (1, batch):
        return False
    if not (value.is_floating_point() or value.is_complex() or value.dtype == torch.bool):
        raise UnsupportedModelError(
            f"decoder layers are called with {name}, integers for each token that may be places of "
            "other tokens; foveate cannot tell what they mean in a shorter row."
        )
    return True


def narrow_entries(value: Tensor, rows: Tensor) -> Tensor:
    """The entries of the tokens that are left: [B or 1, S, ...] -> [B, L, ...]."""
    flat = value.reshape(*value.shape[:2], -1)
    return narrow_tokens(flat, rows, token_dim=-2).reshape(*rows.shape, *value.shape[2:])
