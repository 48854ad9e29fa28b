"""What each token of a vocabulary writes."""

from __future__ import annotations

from typing import Any

from foveate.models.special_tokens import special_tokens


def spellings(tokenizer: Any, vocabulary: int) -> list[str | None]:
    """Text of each token id; None for special tokens and parts of characters.

    A tokenizer may drop a leading space at the start of a text, so each token is decoded behind
    another one.

    Args:
        tokenizer: of the LLM.
        vocabulary: rows of its embedding table; ids beyond the tokenizer's own have no text.
    """
    before = tokenizer("a", add_special_tokens=False)["input_ids"][0]
    settings = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
    start = len(tokenizer.decode([before], **settings))
    special = special_tokens(tokenizer)
    known = min(vocabulary, len(tokenizer))
    texts = tokenizer.batch_decode([[before, i] for i in range(known)], **settings)
    found: list[str | None] = []
    for i, text in enumerate(texts):
        spelling = text[start:]
        is_whole = "\ufffd" not in spelling and len(spelling) > 0
        found.append(spelling if is_whole and i not in special else None)
    return found + [None] * (vocabulary - known)
