"""Marks of a tokenizer that are no text: ends of turns, placeholders, beginnings."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from foveate.errors import InputError

__all__ = ["check_no_marks", "placeholder_marks", "prompt_marks", "special_tokens"]

# Attributes of processors that say what they write around pictures and between their tiles. Others
# are a user's to write: Kosmos-2's `<grounding>`.
_OF_PICTURES = re.compile(r"(?:^|_)(?:image|img|video|vision|tile|slice)(?:_|$)")
# Templates put marks of turns together from these: '<|' + message['role'] + '|>'.
_ROLE = re.compile(r"(?<![a-z])(?:system|user|assistant)(?![a-z])", re.IGNORECASE)


def special_tokens(tokenizer: Any) -> dict[int, str]:
    """Id -> how it is written, of every special token.

    `all_special_ids` has only those that play a named part (beginning, end, padding).
    """
    added = getattr(tokenizer, "added_tokens_decoder", {})
    found = {int(i): str(token.content) for i, token in added.items() if token.special}
    named = zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True)
    return {**found, **{int(i): str(text) for i, text in named}}


def placeholder_marks(processor: Any) -> set[str]:
    """What stands for pictures in a processor's prompts, and around them."""
    names = ("image_token", "video_token", "boi_token", "eoi_token")
    return {str(getattr(processor, name, None) or "") for name in names} - {""}


def prompt_marks(processor: Any) -> tuple[str, ...]:
    """Marks that a prompt is made of: pictures, beginnings and ends of turns and of text.

    Other special tokens may be a user's to write: Qwen-VL asks about `<|object_ref_start|>`.
    """
    tokenizer = getattr(processor, "tokenizer", processor)
    template = getattr(processor, "chat_template", None) or ""
    source = "".join(template.values()) if isinstance(template, Mapping) else str(template)
    special = set(special_tokens(tokenizer).values())
    used = {text for text in special if text in source or _ROLE.search(text)}
    around = {
        str(value)
        for name, value in getattr(processor, "__dict__", {}).items()
        if _OF_PICTURES.search(name)
    }
    named = {getattr(tokenizer, f"{name}_token", None) for name in ("bos", "eos", "pad")}
    found = used | (around & special) | {str(text) for text in named if text}
    found |= placeholder_marks(processor)
    return tuple(sorted(text for text in found if len(text) > 1))


def check_no_marks(texts: Iterable[str], processor: Any) -> None:
    """Raise InputError where what a user wrote holds a mark of the prompt."""
    marks = prompt_marks(processor)
    for text in texts:
        for mark in marks:
            if mark in text:
                raise InputError(
                    f"the prompt's text holds {mark!r}, which this model reads as a picture or as "
                    "the beginning or end of a turn, not as text; take it out, or write it apart "
                    f"({mark[0]} {mark[1:]})."
                )
