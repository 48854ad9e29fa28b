"""Data sets that the package `datasets` reads, offline."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from foveate.errors import InputError
from foveate.tasks.hub import Columns
from foveate.tasks.named import load_questions

COLOURS = ("red", "blue", "red")


def png(colour: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (6, 4), colour).save(file, "PNG")
    return file.getvalue()


def rows(**columns: Any) -> dict[str, list[Any]]:
    made = {
        "image": [{"bytes": png(colour), "path": None} for colour in COLOURS],
        "question": [f"question {i}" for i in range(3)],
        "answer": list(COLOURS),
    }
    return {**made, **columns}


def dataset(**columns: Any) -> Any:
    datasets = pytest.importorskip("datasets")
    made = datasets.Dataset.from_dict(rows(**columns))
    return made.cast_column("image", datasets.Image())


def check(questions: list[Any]) -> None:
    assert [q.question for q in questions] == ["question 0", "question 1", "question 2"]
    assert [q.answers for q in questions] == [("red",), ("blue",), ("red",)]
    assert [q.image.getpixel((0, 0)) for q in questions] == [(255, 0, 0), (0, 0, 255), (255, 0, 0)]
    # Equal pixels are one image, for the intervals.
    assert questions[0].image_id == questions[2].image_id != questions[1].image_id
    assert len({q.id for q in questions}) == 3


def test_a_saved_data_set(tmp_path: Path) -> None:
    dataset().save_to_disk(tmp_path / "saved")
    check(load_questions(f"hub:{tmp_path / 'saved'}", limit=10))
    assert len(load_questions(f"hub:{tmp_path / 'saved'}", limit=2)) == 2


def test_splits_of_a_saved_data_set(tmp_path: Path) -> None:
    import datasets

    splits = {"train": dataset().select([0]), "validation": dataset(), "other": dataset()}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "saved")
    questions = load_questions(f"hub:{tmp_path / 'saved'}", limit=10)
    check(questions)  # held-out data before training data
    assert questions[0].id == "saved-validation-0"
    assert len(load_questions(f"hub:{tmp_path / 'saved'}:train", limit=10)) == 1
    with pytest.raises(InputError, match="has the splits train, validation, other; name one: hub:"):
        load_questions(f"hub:{tmp_path / 'saved'}:dev", limit=1)


@pytest.mark.parametrize("name", ["data.parquet", "test-00000-of-00001.parquet"])
def test_a_folder_of_parquet(tmp_path: Path, name: str) -> None:
    dataset().to_parquet(tmp_path / name)
    check(load_questions(f"hub:{tmp_path}", limit=10))


def test_images_as_plain_bytes(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    plain = rows(image=[png(colour) for colour in COLOURS])
    datasets.Dataset.from_dict(plain).to_parquet(tmp_path / "data.parquet")
    check(load_questions(f"hub:{tmp_path}", limit=10))


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([["a", "b", "a"], ["c"], ["d"]], [("a", "b"), ("c",), ("d",)]),
        ([[{"answer": "a"}, {"answer": "b"}], [{"answer": "c"}], [{"answer": "d"}]],
         [("a", "b"), ("c",), ("d",)]),
        ([1, 2, 3], [("1",), ("2",), ("3",)]),
    ],
)  # fmt: skip
def test_forms_of_answers(tmp_path: Path, answers: list[Any], expected: list[Any]) -> None:
    dataset(answers=answers).save_to_disk(tmp_path / "saved")
    questions = load_questions(f"hub:{tmp_path / 'saved'}", limit=10)
    assert [q.answers for q in questions] == expected


def test_columns_of_other_names(tmp_path: Path) -> None:
    made = dataset(topic=["x", "y", "x"]).rename_columns(
        {"image": "picture", "question": "q", "answer": "label"}
    )
    made.save_to_disk(tmp_path / "saved")
    name = f"hub:{tmp_path / 'saved'}"
    columns = Columns.parse("image=picture, question=q, answers=label, kind=topic")
    questions = load_questions(name, limit=10, columns=columns)
    check(questions)
    assert [q.kind for q in questions] == ["x", "y", "x"]
    words = "has no column 'image'; it has label, picture, q, topic; name the right one with --col"
    with pytest.raises(InputError, match=words):
        load_questions(name, limit=10)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"answers": [[], ["a"], ["b"]]}, r"row 0 .* no accepted answers in 'answers' \(got \[\]"),
        ({"answer": [None, "a", "b"]}, r"no accepted answers in 'answer' \(got None"),
        ({"question": ["", "a", "b"]}, "the question is '', not a text"),
    ],
)
def test_rows_that_do_not_fit(tmp_path: Path, columns: dict[str, Any], words: str) -> None:
    dataset(**columns).save_to_disk(tmp_path / "saved")
    with pytest.raises(InputError, match=words):
        load_questions(f"hub:{tmp_path / 'saved'}", limit=10)


@pytest.mark.parametrize(
    ("image", "words"),
    [(b"not a picture", "is not an image that can be read"), (None, "got NoneType as the image")],
)
def test_images_that_are_none(tmp_path: Path, image: Any, words: str) -> None:
    datasets = pytest.importorskip("datasets")
    plain = rows(image=[image, png("red"), png("red")])
    datasets.Dataset.from_dict(plain).to_parquet(tmp_path / "data.parquet")
    with pytest.raises(InputError, match=words):
        load_questions(f"hub:{tmp_path}", limit=10)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"needs the package datasets; .*'foveate\[hub\]'"):
        load_questions("hub:owner/name", limit=1)


def test_a_name_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    asked: list[Any] = []

    def offline(*given: Any, **options: Any) -> None:
        asked.append((given, options))
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    words = r"'owner/name' cannot be read \(ConnectionError: no route\); check its name, split"
    with pytest.raises(InputError, match=words):
        load_questions("hub:owner/name:test:easy", limit=1)
    assert asked == [(("owner/name", "easy"), {"streaming": True})]


@pytest.mark.parametrize(
    ("name", "columns", "words"),
    [
        ("hub:", "", "names no data set; write hub:OWNER/NAME"),
        ("hub:a/b", "picture=x", "columns 'picture=x': write image=COLUMN, question=COLUMN"),
        ("hub:a/b", "image", "columns 'image': write image=COLUMN"),
        ("reading", "image=x", "columns are those of hub: data, and 'reading' is none"),
    ],
)
def test_names_that_cannot_be(name: str, columns: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        load_questions(name, limit=1, columns=Columns.parse(columns))
