"""Flash attention out of torch itself, in the form that transformers gives flash kernels.

No extra package is needed: ATen holds the kernel. Padded batches and steps of several tokens on a
cache go to sdpa with a mask, as does everything on a CPU, where the same code runs in tests.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface

NAME = "torch_flash"  # transformers goes looking for a kernel of names that begin with flash


def torch_flash(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    is_causal: bool | None = None,
    cu_seq_lens_q: Tensor | None = None,
    cu_seq_lens_k: Tensor | None = None,
    max_length_q: Any = None,
    max_length_k: Any = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention of [B, H, S, d] queries; [B, S, H, d] comes back.

    Args:
        attention_mask: [B, keys], 0 at padding, or None.
        cu_seq_lens_q, cu_seq_lens_k: [pieces + 1] int32, where pieces of a packed row begin.
    """
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    num_queries, num_keys = query.shape[2], key.shape[2]
    q, k, v = (tensor.transpose(1, 2) for tensor in (query, key, value))
    if not query.is_cuda:
        seen = _seen(query, num_keys, attention_mask, cu_seq_lens_q, causal=causal)
        return _attend(query, key, value, seen, scaling), None
    if cu_seq_lens_q is not None:
        lengths = (cu_seq_lens_q, cu_seq_lens_k, int(max_length_q), int(max_length_k))
        out = _flash(q[0], k[0], v[0], *lengths, causal=causal, scale=scaling)
        return out.unsqueeze(0), None
    if attention_mask is None and num_queries in (1, num_keys):
        lengths = (None, None, num_queries, num_keys)
        return _flash(q, k, v, *lengths, causal=causal and num_queries > 1, scale=scaling), None
    seen = _seen(query, num_keys, attention_mask, None, causal=causal)
    return _attend(query, key, value, seen, scaling), None


def use_flash(model: Any) -> None:
    """Let every attention of a model, the tower's too, be torch's flash kernel."""
    AttentionInterface.register(NAME, torch_flash)
    AttentionMaskInterface.register(NAME, ALL_MASK_ATTENTION_FUNCTIONS["flash_attention_2"])
    _use(model, NAME)


def use_sdpa(model: Any) -> None:
    """Let every attention of a model be sdpa again."""
    _use(model, "sdpa")


def _use(model: Any, name: str) -> None:
    # Not set_attn_implementation: it would hold the name to the kernels that it knows.
    for module in model.modules():
        config = getattr(module, "config", None)
        if hasattr(config, "_attn_implementation_internal"):
            config._attn_implementation_internal = name


def _flash(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_q: Tensor | None,
    cu_k: Tensor | None,
    max_q: int,
    max_k: int,
    *,
    causal: bool,
    scale: float | None,
) -> Tensor:
    kernel: Any = torch.ops.aten._flash_attention_forward
    out: Tensor = kernel(q, k, v, cu_q, cu_k, max_q, max_k, 0.0, causal, False, scale=scale)[0]
    return out


def _seen(
    query: Tensor, num_keys: int, mask: Tensor | None, cu_seq_lens: Tensor | None, *, causal: bool
) -> Tensor:
    """[B or 1, 1, queries, keys] bool: which keys a query attends to."""
    num_queries, device = query.shape[2], query.device
    keys = torch.arange(num_keys, device=device)[None]
    own = torch.arange(num_queries, device=device)[:, None] + num_keys - num_queries
    if cu_seq_lens is not None:
        piece = torch.searchsorted(cu_seq_lens.long(), keys[0], right=True)
        return (piece[:, None] == piece[None])[None, None]
    seen = (keys <= own) | (not causal)
    seen = seen[None, None]
    if mask is None:
        return seen
    seen = seen & mask[:, None, None].bool()
    # A padded row sees itself, so that it stays finite.
    return seen | (~seen.any(-1, keepdim=True) & (keys == own))


def _attend(q: Tensor, k: Tensor, v: Tensor, seen: Tensor, scale: float | None) -> Tensor:
    attend = torch.nn.functional.scaled_dot_product_attention
    out = attend(q, k, v, attn_mask=seen, scale=scale, enable_gqa=True)
    return out.transpose(1, 2).contiguous()
