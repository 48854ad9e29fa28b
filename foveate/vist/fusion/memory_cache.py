"""KV cache layers that hold a memory in front of the text, put there once, at the first pass.

Such a layer is a plain dynamic one for its text: lengths, masks, cropping and the keys and values
that it shows count raw tokens only. What it hands to the attention has the memory in front, and
memory and text lie in one tensor, so that an update copies what a plain longer cache copies.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from foveate.errors import MemoryCacheError
from foveate.vist.fusion.fusion import PrefixCache


@dataclass(frozen=True, kw_only=True)
class MemoryRows:
    """Where the memories of a batch stand among its text, as a pass over that text has to know it.

    Args:
        reader: of which reader's memories; see `Fuser`.
        mask: [B, M] bool, True = a latent.
        at: [B, 1] int64, raw tokens before each memory.
        spans: [B, 1] int64, positions each memory takes up; 0 for a row without one.
        longest_span: the largest of `spans`, known to the host.
        after_from: columns of text from here on come after the memory in every row that has one,
            known to the host; None where nobody has looked.
        is_full: whether `mask` is known to be True everywhere.
    """

    reader: str
    mask: Tensor
    at: Tensor
    spans: Tensor
    longest_span: int
    after_from: int | None = None
    is_full: bool = False

    @classmethod
    def of(cls, prefix: PrefixCache, reader: str, device: torch.device) -> MemoryRows:
        """Rows of a prefix, for text on `device`."""
        return cls(
            reader=reader,
            mask=prefix.mask,
            at=torch.tensor(prefix.memory_at, device=device)[:, None],
            spans=torch.tensor(prefix.spans, device=device)[:, None],
            longest_span=prefix.longest_span,
        )

    @property
    def num_rows(self) -> int:
        return self.mask.shape[0]

    def looked_at(self, is_after: Tensor) -> MemoryRows:
        """The same with what the host has to know of it, read back once for all later passes.

        Args:
            is_after: [B or 1, Q] bool, which columns of the first pass come after the memory.
        """
        columns = torch.arange(1, is_after.shape[1] + 1, device=is_after.device)
        last_before = (columns * ~is_after * self.mask.any(dim=1, keepdim=True)).max()
        after_from, is_full = torch.stack([last_before, self.mask.all().long()]).tolist()
        return replace(self, after_from=int(after_from), is_full=bool(is_full))

    def picked(self, index: Tensor) -> MemoryRows:
        """The given rows [B'], in that order."""
        index = index.to(self.mask.device)
        return replace(self, mask=self.mask[index], at=self.at[index], spans=self.spans[index])


class MemoryLayer(DynamicLayer):
    """A dynamic layer with a memory in front of its text; `keys` and `values` are the text's.

    Attributes:
        rows: of the memory, in a cache's first layer; None in the others.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.rows: MemoryRows | None = None
        self._memory: tuple[Tensor, Tensor] | None = None
        self._is_announced = False

    def take(self, keys: Tensor, values: Tensor, rows: MemoryRows | None) -> None:
        """Hold a memory from now on.

        Args:
            keys, values: [B, H_kv, M, head_dim], rotated.
            rows: of it, for a cache's first layer.
        """
        self._memory, self.rows = (keys, values), rows

    def announce(self) -> None:
        """The next update is by the run that reads this memory."""
        self._is_announced = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Keys and values of memory and text [B, H_kv, M + text, head_dim].

        Raises:
            MemoryCacheError: the run that reads the memory is not attached.
        """
        if self._memory is None:
            out: tuple[Tensor, Tensor] = super().update(key_states, value_states, *args, **kwargs)
            return out
        if not self._is_announced:
            length = self.get_seq_length()
            held = f"holds a memory and {length} tokens" if length else "still holds a memory"
            raise MemoryCacheError(
                f"this KV cache {held}, and the model is running without the run that reads it; "
                "attach that run again (run.attach()) before going on with the cache, or empty it: "
                "cache.reset() forgets the memory too, which crop() leaves."
            )
        self._is_announced = False
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        memory_keys, memory_values = self._memory
        num_latents = memory_keys.shape[2]
        keys = torch.cat([memory_keys.to(key_states), self.keys, key_states], dim=2)
        values = torch.cat([memory_values.to(value_states), self.values, value_states], dim=2)
        # Views of what was just made: the memory is not held twice.
        self._memory = keys[:, :, :num_latents], values[:, :, :num_latents]
        self.keys, self.values = keys[:, :, num_latents:], values[:, :, num_latents:]
        return keys, values

    def reset(self) -> None:
        """Forget text and memory: a plain empty layer."""
        super().reset()
        self._memory, self.rows, self._is_announced = None, None, False

    def reorder_cache(self, beam_idx: Tensor) -> None:
        super().reorder_cache(beam_idx)
        self._pick(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)
        self._pick(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)
        if self._memory is not None:
            self._pick(torch.arange(self._memory[0].shape[0]).repeat_interleave(repeats))

    def _pick(self, index: Tensor) -> None:
        if self._memory is not None:
            keys, values = self._memory
            index = index.to(keys.device)
            self._memory = keys[index], values[index]
        if self.rows is not None:
            self.rows = self.rows.picked(index)


class SlidingMemoryLayer(MemoryLayer, DynamicSlidingWindowLayer):
    """The same with a window over the text; the memory never slides out of it."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        if self._memory is None:
            return super().update(key_states, value_states, *args, **kwargs)
        keys, values = super().update(key_states, value_states)
        self.cumulative_length += key_states.shape[2]
        if not getattr(self, "record_past", False):
            self.keys = self.keys[:, :, -self.sliding_window + 1 :]
            self.values = self.values[:, :, -self.sliding_window + 1 :]
            return keys, values
        # The text is kept whole until a crop; the mask has columns for the window only.
        num_shown = self.sliding_window - 1 + key_states.shape[2]
        if self.keys.shape[2] <= num_shown:
            return keys, values
        memory_keys, memory_values = self._memory
        return (
            torch.cat([memory_keys, self.keys[:, :, -num_shown:]], dim=2),
            torch.cat([memory_values, self.values[:, :, -num_shown:]], dim=2),
        )


_KINDS = (DynamicLayer, DynamicSlidingWindowLayer, MemoryLayer, SlidingMemoryLayer)


def can_hold(cache: Any) -> bool:
    """Whether a memory can be put into this cache: its layers grow, on one device, as they are."""
    return (
        isinstance(cache, Cache)
        and not cache.offloading
        and cache.layer_class_to_replicate in (None, DynamicLayer)
        and all(type(layer) in _KINDS for layer in cache.layers)
    )


def rows_in(cache: Any) -> MemoryRows | None:
    """The rows of the memory that a cache holds, None without one."""
    layers = getattr(cache, "layers", None)
    return getattr(layers[0], "rows", None) if layers else None


def put_memory(
    cache: Cache, index: int, keys: Tensor, values: Tensor, rows: MemoryRows | None
) -> None:
    """Make layer `index` of a cache that holds no text yet one that holds a memory.

    Args:
        cache: see `can_hold`.
        index: of the layer.
        keys, values, rows: see `MemoryLayer.take`.
    """
    while len(cache.layers) <= index and cache.layer_class_to_replicate is not None:
        cache.layers.append(cache.layer_class_to_replicate())
    plain: Any = cache.layers[index]
    layer: MemoryLayer
    if plain.is_sliding:
        layer = SlidingMemoryLayer(plain.sliding_window)
        if getattr(plain, "record_past", False):
            layer.activate_past_recording()
    else:
        layer = MemoryLayer()
    layer.take(keys, values, rows)
    cache.layers[index] = layer


def announce(cache: Cache, index: int) -> None:
    """Let layer `index` of a cache be updated once.

    Raises:
        MemoryCacheError: it holds no memory, because the first pass broke off before it.
    """
    layer = cache.layers[index]
    if not isinstance(layer, MemoryLayer):
        raise MemoryCacheError(
            f"layer {index} of this KV cache holds no memory, although its first one does: the "
            "pass that filled it did not come to its end; start from an empty cache."
        )
    layer.announce()
