"""What vLLM's vision tower attends to and gives, read off the layers that a method names."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from foveate.carve.method import Method
from foveate.carve.needs import Need
from foveate.core.received import received_attention
from foveate.vllm.settings import OF_THE_TOWER

__all__ = ["TowerProbe", "alike", "of_tokens"]


class TowerProbe:
    """Reads what a method needs of layers of the tower while `reading`.

    Args:
        layers: of the tower, as many as vLLM built.
        method: what will be decided with it.
        attention: path from a layer to vLLM's MMEncoderAttention in it.
        num_layers: of the tower, as configured.
        used: the layer whose output goes on to the projector.
        num_heads: of a layer, on all devices together.
        has_cls: the first token of a sequence is a CLS token.
        sequence_first: a layer gives [S, B, C], not [B, S, C].
    """

    def __init__(
        self,
        layers: Sequence[nn.Module],
        method: Method,
        *,
        attention: str,
        num_layers: int,
        used: int,
        num_heads: int,
        has_cls: bool,
        sequence_first: bool = False,
    ) -> None:
        self._num_heads = num_heads
        self._has_cls = has_cls
        self._sequence_first = sequence_first
        self._is_on = False
        self._found: dict[Need, list[Tensor]] = {}
        by_layer: dict[int, list[Need]] = {}
        for need in sorted(method.needs & OF_THE_TOWER):
            is_early = need.endswith("_early")
            layer = method.early_tower_layer(num_layers) if is_early else used
            by_layer.setdefault(layer, []).append(need)
        for layer, needs in by_layer.items():
            module = layers[layer].get_submodule(attention)
            before = functools.partial(self._before_attention, needs)
            module.register_forward_pre_hook(before, with_kwargs=True)
            if "vision_features" in needs:
                layers[layer].register_forward_hook(self._after_layer)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Read what runs through the layers in here; nothing else is ever held."""
        self._found = {}
        self._is_on = True
        try:
            yield
        finally:
            self._is_on = False

    def take(self) -> dict[Need, list[Tensor]]:
        """What was read, once: [S] or [S, C] of each sequence that ran through, float32, in order.

        Its names are those of VisualTokens.
        """
        found, self._found = self._found, {}
        return found

    def _before_attention(
        self, needs: Sequence[Need], module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
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
            for need in needs:
                if need == "vision_keys":
                    values = self._mean_over_devices(k.float().mean(dim=1), module.num_heads)
                elif need != "vision_features":
                    has_cls = self._has_cls and "received" not in need
                    row = received_attention(
                        q.transpose(0, 1), k.transpose(0, 1), module.scale, has_cls
                    )
                    values = self._mean_over_devices(row, module.num_heads)
                else:
                    continue
                self._found.setdefault(need, []).append(values)

    def _after_layer(self, module: Any, args: tuple[Any, ...], output: Any) -> None:
        if not self._is_on:
            return
        hidden: Tensor = output[0] if isinstance(output, tuple) else output
        if hidden.ndim == 2:
            hidden = hidden[None]
        elif self._sequence_first:
            hidden = hidden.transpose(0, 1)
        self._found.setdefault("vision_features", []).extend(hidden.detach().float())

    def _mean_over_devices(self, row: Tensor, num_heads: int) -> Tensor:
        """Tensor parallelism spreads the heads, evenly."""
        if num_heads == self._num_heads:
            return row
        from vllm.distributed import tensor_model_parallel_all_reduce

        total: Tensor = tensor_model_parallel_all_reduce(row)
        return total / (self._num_heads // num_heads)


def of_tokens(
    found: Mapping[Need, Sequence[Tensor]],
    skip: int,
    num_items: int,
    to_tokens: Callable[[Tensor], Tensor],
) -> dict[str, Tensor]:
    """What a probe took, as values of visual tokens, [G, N] or [G, N, C] each.

    Args:
        found: from `TowerProbe.take`.
        skip: leading tokens of each sequence that are no patches.
        num_items: G items of one size that ran through.
        to_tokens: of one of them, [patches, C] -> [N, C].
    """
    values: dict[str, Tensor] = {}
    for need, sequences in found.items():
        is_wide = sequences[0].ndim == 2
        patches = torch.cat([(s if is_wide else s[:, None])[skip:] for s in sequences])
        items = patches.view(num_items, -1, patches.shape[1])  # [G, patches, C]
        tokens = torch.stack([to_tokens(item) for item in items])
        values[need] = tokens if is_wide else tokens[..., 0]
    return values


def alike(keys: Iterable[Hashable], most: Callable[[int], int]) -> Iterator[list[int]]:
    """Numbers of items that can run through the tower and be decided in one call.

    Args:
        keys: what must be the same of each.
        most: how many of them at once, by the number of the first.

    Example:
        >>> list(alike("aabac", lambda first: 2))
        [[0, 1], [3], [2], [4]]
    """
    groups: dict[Hashable, list[int]] = {}
    for i, key in enumerate(keys):
        groups.setdefault(key, []).append(i)
    for group in groups.values():
        size = max(1, most(group[0]))
        for start in range(0, len(group), size):
            yield group[start : start + size]
