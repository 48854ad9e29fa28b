"""Received attention: the very mean for small images, evenly spaced queries for large ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from foveate.core import received
from foveate.core.received import received_attention


def drawn(num_tokens: int, *before: int, heads: int = 3, width: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(num_tokens)
    shape = (*before, heads, num_tokens, width)
    return tuple(2 * torch.randn(*shape, generator=generator) for _ in range(2))  # type: ignore[return-value]


def whole(query: Tensor, key: Tensor, mask: Tensor | None = None) -> Tensor:
    """The map of all queries, [..., H, S, S]."""
    logits = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    if mask is not None:
        logits = logits.masked_fill(~mask, -torch.inf)
    return logits.softmax(dim=-1)


@pytest.mark.parametrize("before", [(), (4,)])
@pytest.mark.parametrize("is_masked", [False, True])
def test_up_to_the_limit_every_query_counts(before: tuple[int, ...], is_masked: bool) -> None:
    query, key = drawn(20, *before)
    mask = (torch.arange(20) < 15).expand(*before, 1, 20, 20) if is_masked else None
    found = received_attention(query, key, None, False, mask, most=20)
    expected = whole(query, key, mask).mean(dim=(-3, -2))
    assert torch.allclose(found, expected, atol=1e-6)


def test_the_first_token_alone_where_it_is_a_cls() -> None:
    query, key = drawn(20)
    found = received_attention(query, key, None, True, most=4)
    assert torch.allclose(found, whole(query, key)[:, 0].mean(dim=0), atol=1e-6)


def test_above_it_evenly_spaced_ones() -> None:
    query, key = drawn(40)
    found = received_attention(query, key, None, False, most=10)
    asked = torch.arange(2, 40, 4)
    assert torch.allclose(found, whole(query, key)[:, asked].mean(dim=(0, 1)), atol=1e-6)
    assert not torch.allclose(found, whole(query, key).mean(dim=(0, 1)), atol=1e-4)


@pytest.mark.parametrize("num_tokens", [37, 64, 511])
def test_spacing_covers_the_image(num_tokens: int) -> None:
    """Attention that falls with the query's place has the same mean over the sample, nearly."""
    query = torch.linspace(0, 4, num_tokens).view(1, -1, 1)
    key = torch.linspace(0, 1, num_tokens).view(1, -1, 1)
    sample = received_attention(query, key, 1.0, False, most=16)
    every = received_attention(query, key, 1.0, False)
    assert float(((sample - every) / every).abs().max()) < 0.03


class _Largest(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor):
            self.numel = max(self.numel, out.numel())
        return out


def test_no_map_of_a_whole_image_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(received, "_MOST_LOGITS", 4 * 3 * 2000)
    query, key = drawn(2000)
    with _Largest() as largest:
        parts = received_attention(query, key, None, False)
    assert largest.numel <= 3 * 2000 * 8, "keys, or four rows of logits"
    monkeypatch.undo()
    assert torch.allclose(parts, received_attention(query, key, None, False), atol=1e-7)
