"""JSONL data sets of one's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from foveate.errors import InputError
from foveate.tasks.jsonl import jsonl_questions
from foveate.tasks.named import load_questions

GOOD = {"image": "pictures/red.png", "question": "what color?", "answers": ["red"]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pictures").mkdir()
    for colour in ("red", "blue"):
        Image.new("RGB", (5, 4), colour).save(tmp_path / "pictures" / f"{colour}.png")
    return tmp_path


def write(folder: Path, *rows: object, name: str = "data.jsonl") -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / name).write_text("\n".join(lines) + "\n")
    return folder / name


def test_fields_and_defaults(folder: Path) -> None:
    path = write(folder, GOOD, "", {**GOOD, "answers": "red", "kind": "colour", "id": 7})
    first, second = jsonl_questions(path)
    assert (first.question, first.answers, first.kind) == ("what color?", ("red",), "data")
    assert (first.id, second.id) == ("data-1", "7")
    assert (second.answers, second.kind) == (("red",), "colour")
    assert first.image.getpixel((0, 0)) == (255, 0, 0)
    assert first.image_id == second.image_id


@pytest.mark.parametrize("name", ["./pictures/red.png", "pictures/../pictures//red.png"])
def test_one_image_written_in_two_ways_is_one(folder: Path, name: str) -> None:
    first, second = jsonl_questions(write(folder, GOOD, {**GOOD, "image": name}))
    assert first.image_id == second.image_id


def test_folder_reads_all_files_in_order(folder: Path) -> None:
    write(folder, {**GOOD, "question": "two"}, name="b.jsonl")
    write(folder, {**GOOD, "question": "one"}, name="a.jsonl")
    assert [question.question for question in jsonl_questions(folder)] == ["one", "two"]


def test_numbers_are_answers_too(folder: Path) -> None:
    assert next(jsonl_questions(write(folder, {**GOOD, "answers": 12}))).answers == ("12",)


def test_limit_stops_before_a_bad_line(folder: Path) -> None:
    path = write(folder, GOOD, GOOD, "broken")
    assert len(list(jsonl_questions(path, limit=2))) == 2
    assert len(load_questions(str(path), limit=2)) == 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"data.jsonl, line 2: not JSON"),
        ("[1]", r"line 2: got list, not an object"),
        ({"question": "q", "answers": ["a"]}, r"line 2: 'image' is missing"),
        ({**GOOD, "question": " "}, r"line 2: 'question' is missing"),
        ({**GOOD, "question": 3}, r"line 2: 'question' is missing or not a text"),
        ({**GOOD, "answers": []}, r"line 2: 'answers' is missing or empty"),
        ({**GOOD, "answers": None}, r"line 2: 'answers' is missing or empty"),
        ({**GOOD, "answers": [None]}, r"line 2: 'answers' holds something"),
        ({**GOOD, "image": "none.png"}, r"line 2: image .*none.png' does not exist"),
    ],
)
def test_bad_lines_are_named(folder: Path, line: object, message: str) -> None:
    path = write(folder, GOOD, line)
    with pytest.raises(InputError, match=message):
        list(jsonl_questions(path))


def test_nothing_to_read(folder: Path) -> None:
    with pytest.raises(InputError, match=r"has no \.jsonl file"):
        list(jsonl_questions(folder))
    with pytest.raises(InputError, match="holds no questions"):
        list(jsonl_questions(write(folder, "")))
    with pytest.raises(InputError, match="does not exist"):
        list(jsonl_questions(folder / "none.jsonl"))
    (folder / "latin.jsonl").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(InputError, match="cannot be read as UTF-8"):
        list(jsonl_questions(folder / "latin.jsonl"))


@pytest.mark.parametrize("limit", [0, -3])
def test_limit_below_one(folder: Path, limit: int) -> None:
    with pytest.raises(InputError, match=f"limit={limit} is below 1"):
        list(jsonl_questions(write(folder, GOOD), limit=limit))
    with pytest.raises(InputError, match=f"limit={limit} is below 1"):
        load_questions("reading", limit=limit)


@pytest.mark.parametrize("name", ["reading", "easy-vqa"])
def test_named_sets_give_as_many_as_asked(name: str) -> None:
    questions = load_questions(name, limit=9)
    assert len(questions) == len({question.id for question in questions}) == 9


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match="neither reading nor easy-vqa"):
        load_questions("vqav2", limit=1)
