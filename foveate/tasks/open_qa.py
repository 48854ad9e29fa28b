"""Open-domain questions with retrieved passages, from JSONL."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foveate.errors import InputError
from foveate.jsonl_file import JsonRow, read_rows

__all__ = ["OpenQuestion", "load_open_qa", "passages_text", "question_prompt"]

_EXAMPLE = (
    '{"question": "who built it?", "answers": ["Ada"], '
    '"passages": [{"title": "It", "text": "Ada built it."}]}'
)


@dataclass(frozen=True, kw_only=True)
class OpenQuestion:
    """One question.

    Args:
        question: as asked.
        answers: accepted ones.
        passages: retrieved text, the best first, titles in front.
        id: unique within the file.
    """

    question: str
    answers: tuple[str, ...]
    passages: tuple[str, ...]
    id: str


def load_open_qa(path: str | Path, *, need_passages: int = 0) -> list[OpenQuestion]:
    """Read a JSONL file with `question`, `answers` and `passages` (texts, or title and text).

    Args:
        path: the file.
        need_passages: each question must have at least as many.

    Raises:
        InputError: a bad line, or too few passages (named by line number).
    """
    file = Path(path)
    questions = []
    for row in read_rows(file, fix=f"write {_EXAMPLE}."):
        questions.append(_question(row))
        found = len(questions[-1].passages)
        if found < need_passages:
            raise InputError(
                f"{row.where}: {found} passages, and {need_passages} are needed; retrieve them "
                f"first and write lines such as {_EXAMPLE}, or lower --raw and --far."
            )
    if not questions:
        raise InputError(f"{str(file)!r} holds no questions; write lines such as {_EXAMPLE}.")
    return questions


def _question(row: JsonRow) -> OpenQuestion:
    passages = row.fields.get("passages", [])
    if not isinstance(passages, list):
        raise row.refused("'passages' is not a list")
    return OpenQuestion(
        question=row.text("question").strip(),
        answers=row.texts("answers"),
        passages=tuple(_passage(passage, row) for passage in passages),
        id=str(row.fields.get("id", row.number)),
    )


def _passage(passage: Any, row: JsonRow) -> str:
    if isinstance(passage, str):
        return " ".join(passage.split())
    if isinstance(passage, dict) and isinstance(passage.get("text"), str):
        title = str(passage.get("title") or "")
        text = f"{title}: {passage['text']}" if title else passage["text"]
        return " ".join(text.split())
    raise row.refused("a passage is neither a text nor an object with 'text'")


def passages_text(passages: tuple[str, ...]) -> str:
    """Passages as raw text, one a paragraph."""
    return "".join(f"{passage}\n\n" for passage in passages)


def question_prompt(question: str) -> str:
    """The end of the prompt; the answer is to follow after one space."""
    mark = "" if question.endswith("?") else "?"
    return f"Question: {question}{mark}\nAnswer:"
