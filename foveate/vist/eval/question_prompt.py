"""How a question is put to a model: what stands before the document and what after it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from foveate.errors import InputError
from foveate.models.chat_frame import chat_frame
from foveate.tasks.open_qa import question_prompt

__all__ = ["Asking", "asking"]


@dataclass(frozen=True, kw_only=True)
class Asking:
    """One way of asking.

    Args:
        name: "chat" or "plain".
        head: text before the document; None is the subject's own.
        prompt_of: a question -> the text after the document.
        tail: text after that, up to the answer; special tokens count, as in the head.
    """

    name: str
    head: str | None
    prompt_of: Callable[[str], str]
    tail: str = ""


def asking(tokenizer: Any, name: str = "auto") -> Asking:
    """A way of asking.

    Args:
        tokenizer: of the language model.
        name: "chat": the document and the question are a user's turn of the chat template, as
            `DocumentReader.ask` does it. "plain": "Question: ...", "Answer:". "auto": chat where
            the tokenizer has a template.

    Raises:
        InputError: an unknown name, or no chat template.
    """
    template = getattr(tokenizer, "chat_template", None)
    if name not in ("auto", "chat", "plain"):
        raise InputError(f"unknown prompt {name!r}; use auto, chat or plain.")
    if name == "chat" and not template:
        raise InputError("the model has no chat template; use plain.")
    if name == "plain" or not template:
        return Asking(
            name="plain", head=None, prompt_of=lambda question: f"\n\n{question_prompt(question)}"
        )
    frame = chat_frame(tokenizer)
    return Asking(
        name="chat",
        head=frame.before,
        prompt_of=lambda question: frame.between + question,
        tail=frame.after,
    )
