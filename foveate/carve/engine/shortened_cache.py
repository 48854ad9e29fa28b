"""A KV cache of any kind that was filled by a shorter prompt, and answers in uncompressed length.

The decoder ran on fewer tokens, so its own cache holds fewer, in whatever form it keeps them; none
of that is touched. What is around the decoder (generate, position code of vision-language models)
asks the cache how long it is and must hear the length of the whole prompt. The decoder must hear
what is stored. So the cache object changes its class to one that answers by who asks.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from foveate.errors import CarvedCacheError, UnsupportedModeError


@dataclass
class Slots:
    """Which tokens a shortened cache holds.

    Args:
        index: [B, L] int64, original position of each token; PAD where a row has none.
        seen: uncompressed length.
        has_empty: whether PAD occurs in `index`, so that nobody has to look.
        is_inside: the decoder is running, under the eyes of a run.
        is_broken: a call failed half-way, so that nobody knows what is stored.
    """

    index: Tensor
    seen: int
    has_empty: bool
    is_inside: bool = False
    is_broken: bool = False


class _Shortened(Cache):
    """Stands before the class that the cache was made of, see `shorten`."""

    slots: Slots

    def get_seq_length(self, layer_idx: int = 0) -> int:
        if self.slots.is_inside:
            length: int = super().get_seq_length(layer_idx)
            return length
        return self.slots.seen

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """Outside: masks are made for every token so far; the run picks rows and columns."""
        if self.slots.is_inside:
            sizes: tuple[int, int] = super().get_mask_sizes(query_length, layer_idx)
            return sizes
        return self.slots.seen + query_length, 0

    def update(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        self._check_inside()
        states: tuple[Tensor, Tensor] = super().update(*args, **kwargs)
        return states

    def update_conv_state(self, *args: Any, **kwargs: Any) -> Tensor:
        self._check_inside()
        state: Tensor = super().update_conv_state(*args, **kwargs)
        return state

    def update_recurrent_state(self, *args: Any, **kwargs: Any) -> Tensor:
        self._check_inside()
        state: Tensor = super().update_recurrent_state(*args, **kwargs)
        return state

    def update_indexer(self, *args: Any, **kwargs: Any) -> Tensor:
        self._check_inside()
        keys: Tensor = super().update_indexer(*args, **kwargs)
        return keys

    def _check_inside(self) -> None:
        slots = self.slots
        if not slots.is_inside:
            slots.is_broken = True  # a layer may have stored something before it came here
            raise CarvedCacheError(
                "this KV cache holds a prompt that foveate shortened, and the model is running "
                "without the hooks that keep its positions right; attach again before continuing "
                "with a prompt, or start from an empty cache."
            )

    def crop(self, tokens_to_remove: int) -> None:
        """Remove the last tokens, counted in uncompressed positions (negative count, or 0).

        Raises:
            ValueError: a positive count.
            UnsupportedModeError: dropped tokens, or empty places, are among the last ones.
        """
        slots, count = self.slots, -tokens_to_remove
        if count < 0:
            raise ValueError(
                f"crop({tokens_to_remove}): pass the negative number of tokens to remove."
            )
        if count:
            last = slots.index[:, -count:]
            wanted = torch.arange(slots.seen - count, slots.seen, device=last.device)
            if last.shape[1] != count or not bool((last == wanted).all()):
                raise UnsupportedModeError(
                    f"crop({tokens_to_remove}) reaches into the part of the prompt that was "
                    "shortened, of which not every token is there; crop generated tokens only, or "
                    "start from an empty cache."
                )
        super().crop(tokens_to_remove)
        if count:
            slots.index = slots.index[:, :-count]
            slots.seen -= count

    def reset(self) -> None:
        """Empty again, and what it was."""
        super().reset()
        del self.slots
        self.__class__ = type(self).__mro__[2]

    def reorder_cache(self, beam_idx: Tensor) -> None:
        super().reorder_cache(beam_idx)
        slots = self.slots
        slots.index = slots.index.index_select(0, beam_idx.to(slots.index.device))

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)
        self.slots.index = self.slots.index.repeat_interleave(repeats, dim=0)

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)
        self.slots.index = self.slots.index[indices]

    def __iter__(self) -> Iterator[NoReturn]:
        raise UnsupportedModeError(
            "this KV cache holds a prompt that foveate shortened; keys and values taken out of it "
            "would lose their positions. Copy it with copy.deepcopy."
        )


def slots_of(cache: Any) -> Slots | None:
    """What a shortened cache holds; None for any other, and for none.

    Raises:
        CarvedCacheError: a call failed half-way.
    """
    if not isinstance(cache, _Shortened):
        return None
    if cache.slots.is_broken:
        raise CarvedCacheError(
            "a call that was to continue this shortened KV cache failed half-way, so what it holds "
            "is not known; start from an empty cache."
        )
    return cache.slots


def shorten(cache: Cache, index: Tensor, seen: int, *, has_empty: bool) -> None:
    """Make a cache that a shorter prompt has just filled answer in uncompressed length.

    Args:
        cache: changed in place; of any class.
        index, seen, has_empty: see `Slots`.
    """
    cache.__class__ = _shortened_kind(type(cache))
    assert isinstance(cache, _Shortened)
    cache.slots = Slots(index, seen, has_empty)


@functools.lru_cache(maxsize=64)
def _shortened_kind(kind: type[Cache]) -> type[_Shortened]:
    return type(f"Shortened{kind.__name__}", (_Shortened, kind), {"__module__": __name__})


def held_positions(cache: Any, batch: int, device: torch.device) -> tuple[Tensor, bool]:
    """([B, L] original positions of the tokens in a cache, whether some are PAD).

    Args:
        cache: shortened or plain; None for none.
        batch, device: of the call that continues it.
    """
    slots = slots_of(cache)
    if slots is not None:
        return slots.index.to(device), slots.has_empty
    length = cache.get_seq_length() if cache is not None else 0
    return torch.arange(length, device=device).expand(batch, -1), False
