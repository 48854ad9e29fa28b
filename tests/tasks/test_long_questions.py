"""Passage questions: the file, other wording, and what stands in a document beside what."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from foveate.errors import InputError
from foveate.tasks.long_questions import (
    PassageQuestion,
    load_passage_questions,
    make_documents,
    reworded,
)
from foveate.tasks.wording import content_words

PARAPHRASES = Path(__file__).parents[2] / "benchmarks/xquad_paraphrases.jsonl"


def questions(articles: int = 8, passages: int = 3, each: int = 2) -> list[PassageQuestion]:
    return [
        PassageQuestion(
            id=f"{a}-{p}-{q}",
            article=f"article {a}",
            passage=f"Passage {p} of {a}. " + "word " * 16,
            question=f"what is {q} in {a}?",
            answers=("x",),
        )
        for a in range(articles)
        for p in range(passages)
        for q in range(each)
    ]


def documents(asked: Any = None, **changes: Any) -> Any:
    values: dict[str, Any] = {"tokens": 100, "num_tokens": lambda t: len(t.split()), "limit": 99}
    return make_documents(asked or questions(), **{**values, **changes})


def line(**changes: Any) -> str:
    row = {"id": "a", "title": "T", "passage": " A  tall\ntree. ", "question": "how tall?",
           "answers": ["very", 3]}  # fmt: skip
    return json.dumps({**row, **changes})


def test_the_file(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text(line() + "\n" + line(id="b", answers="one"))
    first, second = load_passage_questions(path)
    assert (first.passage, first.answers) == ("A tall tree.", ("very", "3"))
    assert (second.id, second.article, second.answers) == ("b", "T", ("one",))


@pytest.mark.parametrize(
    ("text", "message"),
    [(line() + "\n" + line(), "line 2: the id 'a' was there before"), ("", "holds no questions"),
     (line(passage=""), "'passage' is missing"), (line(answers=[]), "'answers' is missing")],
)  # fmt: skip
def test_bad_files(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        load_passage_questions(path)


@pytest.mark.parametrize(
    ("row", "message"),
    [({"id": "0-0-0", "question": "Which words are there?"}, "word stand in the passage too"),
     ({"id": "no", "question": "what?"}, "no question has the id 'no'"),
     ({"id": "0-0-0"}, "'question' is missing")],
)  # fmt: skip
def test_wording_that_is_refused(tmp_path: Path, row: dict[str, str], message: str) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps(row))
    with pytest.raises(InputError, match=message):
        reworded(questions(), path)


def test_other_wording(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps({"id": "1-2-0", "question": "How tall?"}))
    (only,) = reworded(questions(), path)
    assert (only.id, only.question, only.passage) == ("1-2-0", "How tall?", questions()[10].passage)


def test_the_written_paraphrases_are_many_and_all_different() -> None:
    rows = [json.loads(text) for text in PARAPHRASES.read_text().splitlines()]
    assert len({row["id"] for row in rows}) == len(rows) > 100
    assert all(len(content_words(row["question"])) > 1 for row in rows)


@pytest.mark.parametrize(
    ("text", "words"),
    [("Which of the Boats was it?", {"boat"}), ("In 1901, 35 boaters", {"1901", "35", "boat"}),
     ("A_b the", set()), ("Größe", {"gröss"})],
)  # fmt: skip
def test_content_words(text: str, words: set[str]) -> None:
    assert content_words(text) == words


def test_who_stands_beside_whom() -> None:
    made = documents()
    assert sorted(q.id for d in made for q in d.questions) == sorted(
        q.id for q in questions() if int(q.article[-1]) % 2
    )
    for document in made:
        articles = [text.split()[3] for text in document.passages]
        assert len(set(articles)) == len(articles) == 5
        assert len(document.text.split()) <= 100
        assert {q.passage for q in document.questions} <= set(document.passages)
        assert len({q.passage for q in document.questions}) == len(document.questions)
    turns = [q.id[-1] for d in made for q in d.questions]
    assert turns == sorted(turns)
    # Each right passage stands anywhere.
    places = {d.passages.index(q.passage) for d in made for q in d.questions}
    assert places == set(range(5))


def test_a_higher_limit_adds_documents() -> None:
    few, many = documents(limit=6), documents(limit=20)
    assert many[: len(few)] == few
    assert 6 <= sum(len(d.questions) for d in few) < sum(len(d.questions) for d in many)
    assert documents(seed=1) != documents(seed=0)


def test_halves_and_fillers() -> None:
    even = documents(half="even")
    assert {int(q.article[-1]) % 2 for d in even for q in d.questions} == {0}
    assert len({q.article for d in documents(half="all") for q in d.questions}) == 8
    some = [q for q in questions() if q.article == "article 3"]
    (first, *_) = documents(some, fillers=questions())
    assert len(first.passages) == 5
    # Long documents take second passages only when every article has one.
    (long, *_) = documents(tokens=10 * 20)
    articles = [text.split()[3] for text in long.passages]
    assert set(articles) == {f"{i}." for i in range(8)}
    assert len(articles) == 10


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"half": "third"}, "use odd, even or all"), ({"limit": 0}, "use 1 or more"),
     ({"tokens": 5}, "fits 5 tokens")],
)  # fmt: skip
def test_impossible(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        documents(**changes)
