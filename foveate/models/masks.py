"""Masks, positions and rotary tables of a batch whose rows were narrowed: gather, or build."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, flash_attention_mask

from foveate.core.layout import PAD
from foveate.errors import UnsupportedModeError
from foveate.models.key_sizes import with_sizes


def valid_tokens(attention_mask: Any, batch: int, length: int, device: torch.device) -> Tensor:
    """Which of the `length` new tokens are real, [B, length] bool, from any mask a model is given.

    Args:
        attention_mask: None, 2-D [B, past + length], 4-D [B, 1, length, kv] (bool, or additive
            float), or a dict of such by layer type.
    """
    if isinstance(attention_mask, dict):
        given = [mask for mask in attention_mask.values() if mask is not None]
        attention_mask = given[0] if given else None
    if attention_mask is None:
        return torch.ones(batch, length, dtype=torch.bool, device=device)
    if attention_mask.ndim == 2:
        return attention_mask[:, -length:].to(device).bool().expand(batch, length)
    # 4-D: a real token sees itself, a padding token does not.
    own = attention_mask[:, 0, :, -length:].diagonal(dim1=-2, dim2=-1)
    return _allowed(own).to(device).expand(batch, length)


def _allowed(mask: Tensor) -> Tensor:
    return mask if mask.dtype == torch.bool else mask == 0


def narrow_mask(
    mask: Any,
    query_idx: Tensor,
    key_idx: Tensor,
    *,
    has_empty: bool,
    attention: str,
    past: int,
) -> Tensor | None:
    """The mask for queries `query_idx` and keys `key_idx`, in the form `mask` came in.

    Args:
        mask: None, 2-D [B, kv], or 4-D [B, 1 or H, q, kv]; columns are original positions.
        query_idx: [B, Q] original positions of the queries; PAD for filler rows.
        key_idx: [B, L] original positions of the keys, the queries' own last; PAD for empty slots.
        has_empty: whether PAD may occur (known without a look at the device).
        attention: name of the attention implementation.
        past: original length of the cache before this pass, the position of the first mask row.

    Returns:
        None where the kernel's own causal rule is exact, else a mask of [B, L] or [B, 1 or H, Q,
        L].
    """
    num_queries, num_keys = query_idx.shape[1], key_idx.shape[1]
    is_plain = is_flash(attention) or num_queries in (1, num_keys)
    if mask is None and not has_empty and is_plain:
        return None
    empty = key_idx == PAD
    if is_flash(attention):
        if mask is None:
            return (~empty).long()
        if not isinstance(mask, Tensor) or mask.ndim != 2:
            raise UnsupportedModeError(
                f"{attention} got a {_described(mask)} mask; foveate narrows 2-D ones there."
            )
        narrowed = mask.gather(1, key_idx.clamp_min(0).to(mask.device))
        return narrowed.masked_fill(empty.to(mask.device), 0)
    if mask is None:
        # sdpa's own causal shortcut is top-left aligned, wrong for several queries after a cache.
        seen = (key_idx.unsqueeze(1) <= query_idx.unsqueeze(2)) & ~empty.unsqueeze(1)
        return _open_filler_rows(seen.unsqueeze(1), query_idx)
    if not isinstance(mask, Tensor) or mask.ndim != 4:
        raise UnsupportedModeError(
            f"attention {attention!r} uses a {_described(mask)} mask that foveate cannot "
            "narrow; load the model with attn_implementation 'sdpa', 'eager' or a flash kernel."
        )
    batch = query_idx.shape[0]
    query_idx, key_idx, empty = (t.to(mask.device) for t in (query_idx, key_idx, empty))
    mask = mask.expand(batch, -1, -1, -1)
    picked = mask
    if mask.shape[2] > 1:  # a decoded token has one row, its own
        rows = (query_idx - past).clamp_min(0)[:, None, :, None].expand(-1, mask.shape[1], -1, 1)
        picked = mask.gather(2, rows.expand(-1, -1, -1, mask.shape[3]))
    columns = key_idx.clamp_min(0)[:, None, None, :].expand(-1, mask.shape[1], num_queries, -1)
    picked = picked.gather(3, columns)
    if not has_empty:
        return picked
    closed = empty[:, None, None, :]
    if picked.dtype == torch.bool:
        return _open_filler_rows(picked & ~closed, query_idx)
    lowest = torch.finfo(picked.dtype).min
    return _open_filler_rows(picked.masked_fill(closed, lowest), query_idx)


# They add a 4-D mask to the logits, behind a soft cap where a model has one.
ADDING = ("sdpa", "eager")


def check_adding(attention: str) -> None:
    """Raise UnsupportedModeError unless log sizes can be added to an implementation's logits."""
    if attention not in ADDING and not is_flash(attention):
        raise UnsupportedModeError(
            f"sizes='log' adds log(size) to attention logits, which {attention} cannot; load the "
            "model with attn_implementation 'sdpa', 'eager' or a flash kernel, or use "
            "sizes='ignore'."
        )


def weigh_keys(
    mask: Tensor | None,
    log_sizes: Tensor,
    query_idx: Tensor,
    key_idx: Tensor,
    *,
    attention: str,
    dtype: torch.dtype,
) -> Tensor:
    """A mask under which a key counts as often as it was made of tokens.

    softmax(l_j + log n_j) is what n_j equal keys would get together.

    Args:
        mask: from `narrow_mask`; None is causal.
        log_sizes: [B, L] float32.
        query_idx, key_idx: as for `narrow_mask`.
        attention: name of the attention implementation.
        dtype: of the mask where none is given.

    Returns:
        Additive, [B, 1 or H, Q, L]. For a flash kernel [B, L], the sizes travelling with it, see
        `key_sizes`.

    Raises:
        UnsupportedModeError: nothing can be added to the logits of this implementation.
    """
    check_adding(attention)
    if is_flash(attention):
        return with_sizes(mask, log_sizes)
    device = query_idx.device if mask is None else mask.device
    bias = log_sizes.to(device)[:, None, None, :]
    if mask is None:
        mask = (key_idx.unsqueeze(1) <= query_idx.unsqueeze(2)).unsqueeze(1)
    if mask.dtype != torch.bool:
        return mask + bias.to(mask.dtype)
    return torch.where(mask, bias.to(dtype), torch.finfo(dtype).min)


def narrow_padding(mask: Any, query_idx: Tensor, *, past: int, has_empty: bool) -> Tensor | None:
    """The mask of a layer with a state instead of keys: 0 at padding, and at filler rows.

    Args:
        mask: None, or 2-D [B, new tokens], True or 1 at real tokens.
        query_idx: [B, Q] original positions of the tokens that are left; PAD for filler rows.
        past: original length of the cache before this pass, the position of the first column.
        has_empty: whether PAD may occur (known without a look at the device).

    Returns:
        [B, Q] in the type of `mask`; None where every token is real.
    """
    if mask is None:
        return (query_idx != PAD).long() if has_empty else None
    if not isinstance(mask, Tensor) or mask.ndim != 2:
        raise UnsupportedModeError(
            f"a layer that keeps a state got a {_described(mask)} mask; foveate narrows 2-D "
            "padding masks there."
        )
    query_idx = query_idx.to(mask.device)
    columns = (query_idx - past).clamp_min(0)
    picked = mask.expand(query_idx.shape[0], -1).gather(1, columns)
    return picked.masked_fill(query_idx == PAD, 0)


def hide_columns(mask: Any, columns: Tensor, first_row: int, attention: str) -> Tensor:
    """Make `columns` [B, S] bool invisible to rows from `first_row` on, in a pass without a cache.

    Args:
        mask: None (causal) or 4-D [B, 1 or H, S, S], bool or additive.
    """
    length = columns.shape[1]
    if is_flash(attention):
        raise UnsupportedModeError(
            f"use_cache=False with {attention} cannot hide dropped tokens from the early layers; "
            "use a cache, or early_cache='full'."
        )
    place = torch.arange(length, device=columns.device)
    if mask is None:
        mask = (place[None, :] <= place[:, None])[None, None]
    is_late = (place >= first_row)[None, None, :, None]
    hidden = (is_late & columns[:, None, None, :]).to(mask.device)
    if mask.dtype == torch.bool:
        return mask & ~hidden
    return mask.masked_fill(hidden, torch.finfo(mask.dtype).min)


def _open_filler_rows(mask: Tensor, query_idx: Tensor) -> Tensor:
    """Let filler queries see their own (empty) slot: a row that sees nothing would give NaN."""
    num_queries, num_keys = mask.shape[-2:]
    filler = (query_idx == PAD)[:, None, :, None]  # [B, 1, Q, 1]
    own = torch.arange(num_keys - num_queries, num_keys, device=mask.device)
    on_diagonal = own[:, None] == torch.arange(num_keys, device=mask.device)
    opened = filler.to(mask.device) & on_diagonal
    return mask | opened if mask.dtype == torch.bool else mask.masked_fill(opened, 0.0)


def _described(mask: Any) -> str:
    if mask is None:
        return "missing"
    return f"{mask.ndim}-D" if isinstance(mask, Tensor) else type(mask).__name__


def is_flash(attention: str) -> bool:
    """Whether this attention implementation takes 2-D masks, as flash kernels do."""
    return ALL_MASK_ATTENTION_FUNCTIONS.get(attention) is flash_attention_mask


def narrow_tokens(x: Tensor, rows: Tensor, token_dim: int) -> Tensor:
    """Gather columns `rows` [B, L] of the token dimension of `x`; PAD takes column 0.

    The batch dimension is the one before `token_dim` (counted from the end); it may be 1.

    Args:
        x: [..., B or 1, S, D] with token_dim=-2, or [..., B or 1, S] with token_dim=-1.

    Returns:
        The same with S replaced by L, and B rows.
    """
    batch, length = rows.shape
    index = rows.clamp_min(0).to(x.device)
    if batch == 1:  # whole rows are copied at once
        return x.index_select(token_dim, index[0])
    shape = list(x.shape)
    shape[token_dim - 1] = batch
    x = x.expand(shape)
    if token_dim == -2:
        index = index.unsqueeze(-1)
    shape[token_dim] = length
    return x.gather(token_dim, index.expand(shape))
