"""Marks of a tokenizer that are no text: ends of turns, placeholders, beginnings."""

from __future__ import annotations

from typing import Any

__all__ = ["special_tokens"]


def special_tokens(tokenizer: Any) -> dict[int, str]:
    """Id -> how it is written, of every special token.

    `all_special_ids` has only those that play a named part (beginning, end, padding).
    """
    added = getattr(tokenizer, "added_tokens_decoder", {})
    found = {int(i): str(token.content) for i, token in added.items() if token.special}
    named = zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True)
    return {**found, **{int(i): str(text) for i, text in named}}
