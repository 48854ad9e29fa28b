"""Reading questions on passages, put among other passages: long documents with known places."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from foveate.errors import InputError
from foveate.jsonl_file import read_rows

__all__ = ["Passage", "PlacedDocument", "PlacedQuestion", "load_passages", "place_passages"]

JOINT = "\n\n"
_EXAMPLE = (
    '{"title": "Lamps", "passage": "Ada keeps the lamp.", "question": "Who keeps it?", '
    '"answers": ["Ada"]}'
)


@dataclass(frozen=True, kw_only=True)
class Passage:
    """A passage with what is asked about it.

    Args:
        title: of its article.
        text: of the passage.
        questions: with their answers, which stand in the text.
    """

    title: str
    text: str
    questions: tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True, kw_only=True)
class PlacedQuestion:
    """A question about a document.

    Args:
        question: as asked.
        spans: where the document answers it: first character and the one after the last.
        cluster: questions of one cluster are not independent.
        id: unique in its set.
        answers: accepted ones; () where only the place is asked for.
    """

    question: str
    spans: tuple[tuple[int, int], ...]
    cluster: str
    id: str
    answers: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class PlacedDocument:
    """A text and questions about places in it."""

    text: str
    questions: tuple[PlacedQuestion, ...]


def load_passages(
    path: str | Path, articles: Literal["odd", "even", "all"] = "all"
) -> list[Passage]:
    """Read a JSONL file of `title`, `passage`, `question`, `answers` (as XQuAD in one line each).

    Args:
        path: the file.
        articles: by their number in the file's order, from 0; settings are chosen on the even ones
            and measured on the odd ones.

    Raises:
        InputError: a bad line, an answer that is not in its passage, or no passage.
    """
    found: dict[str, tuple[str, list[tuple[str, tuple[str, ...]]]]] = {}
    for row in read_rows(Path(path), fix=f"write {_EXAMPLE}."):
        text, answers = row.text("passage", can_be_blank=False), row.texts("answers")
        if not any(answer in text for answer in answers):
            raise row.refused("none of the answers is in the passage")
        _, asked = found.setdefault(text, (row.text("title"), []))
        asked.append((row.text("question", can_be_blank=False), answers))
    titles = list(dict.fromkeys(title for title, _ in found.values()))
    wanted = {"odd": titles[1::2], "even": titles[::2], "all": titles}.get(articles)
    if wanted is None:
        raise InputError(f"unknown articles {articles!r}; use odd, even or all.")
    passages = [
        Passage(title=title, text=text, questions=tuple(asked))
        for text, (title, asked) in found.items()
        if title in wanted
    ]
    if not passages:
        raise InputError(f"{str(path)!r} holds no passage of {articles} articles; choose all.")
    return passages


def place_passages(
    passages: Sequence[Passage], num_passages: int, *, seed: int = 0
) -> list[PlacedDocument]:
    """Documents of about so many passages each, drawn at random, every passage in one of them.

    Args:
        passages: in any order.
        num_passages: of a document.
        seed: of the order.

    Raises:
        InputError: num_passages is below 2: nothing to find then.
    """
    if num_passages < 2:
        raise InputError(f"num_passages={num_passages} leaves nothing to find; use 2 or more.")
    order = list(passages)
    random.Random(seed).shuffle(order)
    count = max(1, round(len(order) / num_passages))
    documents = []
    for number in range(count):
        text, questions = "", []
        for passage in order[len(order) * number // count : len(order) * (number + 1) // count]:
            text += JOINT if text else ""
            start = len(text)
            text += passage.text
            for place, (question, answers) in enumerate(passage.questions):
                spans = tuple(
                    (start + match.start(), start + match.end())
                    for answer in answers
                    for match in re.finditer(re.escape(answer), passage.text)
                )
                questions.append(
                    PlacedQuestion(
                        question=question,
                        spans=spans,
                        cluster=passage.title,
                        id=f"{number}-{start}-{place}",
                        answers=answers,
                    )
                )
        documents.append(PlacedDocument(text=text, questions=tuple(questions)))
    return documents
