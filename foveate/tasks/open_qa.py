"""Open-domain questions with retrieved passages, from JSONL."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foveate.errors import InputError

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
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise InputError(f"{str(file)!r} cannot be read: {error}.") from error
    questions = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            questions.append(_question(line, f"{file}, line {number}", f"{number}"))
            found = len(questions[-1].passages)
            if found < need_passages:
                raise InputError(
                    f"{file}, line {number}: {found} passages, and {need_passages} are needed; "
                    f"retrieve them first and write lines such as {_EXAMPLE}, or lower --raw and "
                    "--far."
                )
    if not questions:
        raise InputError(f"{str(file)!r} holds no questions; write lines such as {_EXAMPLE}.")
    return questions


def _question(line: str, where: str, number: str) -> OpenQuestion:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: not JSON ({error.msg}); write {_EXAMPLE}.") from error
    if not isinstance(row, dict) or not isinstance(row.get("question"), str):
        raise InputError(f"{where}: 'question' is missing or not a text; write {_EXAMPLE}.")
    answers = row.get("answers")
    answers = [answers] if isinstance(answers, str) else answers
    if not isinstance(answers, list) or not answers:
        raise InputError(f"{where}: 'answers' is missing or empty; write {_EXAMPLE}.")
    passages = row.get("passages", [])
    if not isinstance(passages, list):
        raise InputError(f"{where}: 'passages' is not a list; write {_EXAMPLE}.")
    return OpenQuestion(
        question=row["question"].strip(),
        answers=tuple(str(answer) for answer in answers),
        passages=tuple(_passage(passage, where) for passage in passages),
        id=str(row.get("id", number)),
    )


def _passage(passage: Any, where: str) -> str:
    if isinstance(passage, str):
        return " ".join(passage.split())
    if isinstance(passage, dict) and isinstance(passage.get("text"), str):
        title = str(passage.get("title") or "")
        text = f"{title}: {passage['text']}" if title else passage["text"]
        return " ".join(text.split())
    raise InputError(f"{where}: a passage is neither a text nor an object with 'text'.")


def passages_text(passages: tuple[str, ...]) -> str:
    """Passages as raw text, one a paragraph."""
    return "".join(f"{passage}\n\n" for passage in passages)


def question_prompt(question: str) -> str:
    """The end of the prompt; the answer is to follow after one space."""
    mark = "" if question.endswith("?") else "?"
    return f"Question: {question}{mark}\nAnswer:"
