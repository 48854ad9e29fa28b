"""Uploads and texts beyond the limits are refused, each with a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from foveate.app.limits import Limits
from foveate.errors import ConfigError, InputError

SMALL = Limits(file_bytes=2_000, pixels=10_000, question_chars=20, text_chars=100)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "red.png"
    Image.new("RGB", (80, 60), "red").save(path)
    return path


def test_an_image_within_the_limits_is_opened(picture: Path) -> None:
    assert SMALL.image(picture).size == (80, 60)


def test_too_big_a_file(tmp_path: Path) -> None:
    path = tmp_path / "big.png"
    path.write_bytes(b"x" * 2_001_000)
    limits = Limits(file_bytes=1_500_000)
    with pytest.raises(InputError, match=r"the file has 2\.0 MB, above the limit of 1\.5 MB; make"):
        limits.image(path)
    with pytest.raises(InputError, match=r"above the limit of 1\.5 MB"):
        limits.text_file(path)


def test_too_many_pixels(tmp_path: Path) -> None:
    path = tmp_path / "wide.png"
    Image.new("1", (200, 100)).save(path)
    with pytest.raises(InputError, match="200 x 100 = 20,000 pixels, above the limit of 10,000"):
        SMALL.image(path)


def test_no_image(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no image; drop one"):
        SMALL.image(None)
    path = tmp_path / "notes.png"
    path.write_text("not a picture")
    with pytest.raises(InputError, match="is not an image that can be read"):
        SMALL.image(path)


def test_questions() -> None:
    assert SMALL.question("  why?\n") == "why?"
    for empty in ("", "   "):
        with pytest.raises(InputError, match="the question is empty; ask"):
            SMALL.question(empty)
    with pytest.raises(InputError, match="the question has 21 characters, above the limit of 20"):
        SMALL.question("x" * 21)


def test_texts(tmp_path: Path) -> None:
    assert SMALL.text("a text") == "a text"
    with pytest.raises(InputError, match="the text is empty; paste one"):
        SMALL.text(" \n ")
    with pytest.raises(InputError, match="the text has 101 characters, above the limit of 100"):
        SMALL.text("x" * 101)
    path = tmp_path / "text.txt"
    path.write_text("from a file", encoding="utf-8")
    assert SMALL.text_file(path) == "from a file"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="utf-8"):
        SMALL.text_file(path)


def test_answer_length() -> None:
    assert SMALL.answer_length(16.0) == 16
    with pytest.raises(InputError, match="the longest answer is 65 tokens; choose 1 to 64"):
        SMALL.answer_length(65)


def test_a_limit_below_one() -> None:
    with pytest.raises(ConfigError, match="pixels=0 is below 1; raise it"):
        Limits(pixels=0)
