"""Assisted generation and prompt lookup: the prompt is prefilled alone, guesses start after it."""

from __future__ import annotations

from typing import Any

from torch import Tensor


class PromptFirst:
    """A candidate generator whose first answer is "no candidates".

    transformers feeds the first candidates together with the prompt. They would then be the last
    rows when visual tokens are scored, and would see in the early layers what a compact cache has
    dropped. One step without candidates costs one token of guessing and keeps results equal to
    plain decoding.
    """

    def __init__(self, generator: Any) -> None:
        self._generator = generator
        self._is_first = True

    def get_candidates(self, input_ids: Tensor, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        # Asked even for the answer that is thrown away: an assistant prefills the prompt here.
        result: tuple[Tensor, Tensor | None] = self._generator.get_candidates(input_ids, **kwargs)
        return (input_ids, None) if self._is_first else result

    def update_candidate_strategy(self, *args: Any, **kwargs: Any) -> None:
        if self._is_first:
            self._is_first = False
            return
        self._generator.update_candidate_strategy(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._generator, name)
