"""A KV cache that one far context fills and many prompts are asked behind."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Prefilled"]


@dataclass
class Prefilled:
    """A KV cache with head and far context, and what it still holds of the last prompt.

    Args:
        cache: of transformers; it can be cropped.
        base: position of the token behind the far context.
        length: entries up to there.
        prompt: tokens that the cache holds behind them.
    """

    cache: Any
    base: int
    length: int
    prompt: list[int] = field(default_factory=list)

    def resume(self, ids: Sequence[int]) -> int:
        """Keep what is held of a prompt that begins with `ids`: the number of tokens both share."""
        pairs = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(ids, self.prompt))  # noqa: B905
        shared = sum(1 for _ in pairs)
        extra = self.cache.get_seq_length() - self.length - shared
        if extra:
            self.cache.crop(-extra)
        self.prompt = self.prompt[:shared]
        return shared
