"""What a chat template writes around a document and a question about it."""

from __future__ import annotations

from typing import Any, NamedTuple

from foveate.errors import InputError

__all__ = ["ChatFrame", "chat_frame"]

DOCUMENT, QUESTION = "\x00", "\x01"  # stand for both in the template
BETWEEN = "\n\n"


class ChatFrame(NamedTuple):
    """The template's own text, in which special tokens count; what stands between is plain.

    Attributes:
        before: the document.
        between: document and question.
        after: the question, up to the answer.
    """

    before: str
    between: str
    after: str


def chat_frame(tokenizer: Any) -> ChatFrame:
    """The frame of a user's turn that holds a document, then a question.

    Raises:
        InputError: the tokenizer has no chat template, or one that changes what it is given.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise InputError(
            "the model has no chat template, so it cannot be asked; continue the text instead, or "
            "ask in plain words."
        )
    content = f"{DOCUMENT}{BETWEEN}{QUESTION}"
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    before, found, after = chat.partition(content)
    if not found:
        raise InputError(
            "the model's chat template changes what a user writes, so a document has no place in "
            "it; continue the text instead, or ask in plain words."
        )
    return ChatFrame(before, BETWEEN, after)
