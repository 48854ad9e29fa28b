"""Passages put among others: every answer keeps its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from foveate.errors import InputError
from foveate.tasks.passages import load_passages, place_passages


def row(number: int, **changes: Any) -> dict[str, Any]:
    text = f"Keeper {number} has lamp {number}. The boat is old."
    return {
        "title": f"Article {number // 2}",
        "passage": text,
        "question": "Which lamp?",
        "answers": [f"lamp {number}"],
        **changes,
    }


def write(folder: Path, rows: list[dict[str, Any]]) -> Path:
    file = folder / "questions.jsonl"
    file.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return file


def test_halves_of_articles(tmp_path: Path) -> None:
    file = write(tmp_path, [row(i) for i in range(8)])
    assert {p.title for p in load_passages(file, "even")} == {"Article 0", "Article 2"}
    assert {p.title for p in load_passages(file, "odd")} == {"Article 1", "Article 3"}
    assert len(load_passages(file)) == 8


def test_answers_stand_where_the_document_says(tmp_path: Path) -> None:
    passages = load_passages(write(tmp_path, [row(i) for i in range(9)]))
    documents = place_passages(passages, 3, seed=1)
    assert len(documents) == 3
    found = [q for d in documents for q in d.questions]
    assert len(found) == len({q.id for q in found}) == 9
    for document in documents:
        for question in document.questions:
            (start, stop), *others = question.spans
            assert document.text[start:stop] == question.answers[0]
            assert not others
    assert place_passages(passages, 3, seed=1) == documents
    assert place_passages(passages, 3, seed=2) != documents


def test_what_cannot_be_placed_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path, [row(0, answers=["no such lamp"])])
    with pytest.raises(InputError, match="none of the answers is in the passage"):
        load_passages(file)
    file = write(tmp_path, [row(0)])
    with pytest.raises(InputError, match="holds no passage of odd articles"):
        load_passages(file, "odd")
    with pytest.raises(InputError, match="num_passages=1 leaves nothing to find"):
        place_passages(load_passages(file), 1)
