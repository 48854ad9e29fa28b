"""What vLLM's vision tower attends to: read off the attention of its last used layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from foveate.carve.method import Method
from foveate.core.received import received_attention

__all__ = ["TowerProbe", "TowerReading"]


@dataclass(frozen=True)
class TowerReading:
    """What was read of each sequence that ran through the layer, in order.

    Args:
        attention: [S] float32 each, see `received_attention`; empty where no method asked for it.
        keys: [S, heads * D] float32 each.
    """

    attention: Sequence[Tensor]
    keys: Sequence[Tensor]


class TowerProbe:
    """Reads one attention layer of the tower while `reading`.

    Args:
        attention: vLLM's MMEncoderAttention of the layer.
        method: what will be decided with it.
        num_heads: of the layer, on all devices together.
        has_cls: the first token of a sequence is a CLS token.
    """

    def __init__(
        self, attention: nn.Module, method: Method, *, num_heads: int, has_cls: bool
    ) -> None:
        self._needs = method.step_needs
        self._num_heads = num_heads
        self._has_cls = has_cls
        self._is_on = False
        self._attention: list[Tensor] = []
        self._keys: list[Tensor] = []
        if self._needs:
            attention.register_forward_pre_hook(self._before_attention, with_kwargs=True)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Read what runs through the layer in here; nothing else is ever held."""
        self._attention, self._keys = [], []
        self._is_on = True
        try:
            yield
        finally:
            self._is_on = False

    def take(self) -> TowerReading:
        """What was read, once."""
        reading = TowerReading(self._attention, self._keys)
        self._attention, self._keys = [], []
        return reading

    def _before_attention(
        self, module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        if not self._is_on:
            return
        query = kwargs["query"] if "query" in kwargs else args[0]
        key = kwargs["key"] if "key" in kwargs else args[1]
        lengths = kwargs.get("cu_seqlens")
        heads = (module.num_heads, module.head_size)
        # [B, S, heads, D], whether heads came side by side or not.
        query, key = (x.reshape(*x.shape[:2], *heads) for x in (query, key))
        if lengths is not None:  # all sequences in one row
            sizes = (lengths[1:] - lengths[:-1]).tolist()
            pieces = zip(query[0].split(sizes), key[0].split(sizes), strict=True)
        else:
            pieces = zip(query, key, strict=True)
        for q, k in pieces:  # [S, heads, D]
            if "vision_attention" in self._needs:
                row = received_attention(
                    q.transpose(0, 1), k.transpose(0, 1), module.scale, self._has_cls
                )
                self._attention.append(self._mean_over_devices(row, module.num_heads))
            if "vision_keys" in self._needs:
                self._keys.append(self._all_heads(k, module.num_heads).flatten(1).float())

    def _mean_over_devices(self, row: Tensor, num_heads: int) -> Tensor:
        """Tensor parallelism spreads the heads, evenly."""
        if num_heads == self._num_heads:
            return row
        from vllm.distributed import tensor_model_parallel_all_reduce

        total: Tensor = tensor_model_parallel_all_reduce(row)
        return total / (self._num_heads // num_heads)

    def _all_heads(self, key: Tensor, num_heads: int) -> Tensor:
        """[S, heads here, D] -> [S, heads, D]"""
        if num_heads == self._num_heads:
            return key
        from vllm.distributed import tensor_model_parallel_all_gather

        every: Tensor = tensor_model_parallel_all_gather(key.contiguous(), dim=1)
        return every


def column(values: Sequence[Tensor]) -> list[Tensor]:
    """[S] each -> [S, 1] each, so that one rule serves attention and keys."""
    return [value[:, None] for value in values]


def concatenated(values: Sequence[Tensor], skip: int) -> Tensor:
    """Sequences one behind the other, each without its first `skip` tokens."""
    return torch.cat([value[skip:] for value in values])
