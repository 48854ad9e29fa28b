"""Pictures of data sets pass the same formats and limits as files."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from foveate.errors import InputError
from foveate.tasks.named import load_questions

datasets: Any = pytest.importorskip("datasets")

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"


def bomb() -> bytes:
    """A PNG of 30,000 x 30,000 pixels in some hundred bytes of header and nothing behind it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def saved(folder: Path, content: bytes) -> str:
    rows = {
        "image": [{"bytes": content, "path": None}],
        "question": ["what ?"],
        "answer": ["a"],
    }
    made = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    made.save_to_disk(folder / "saved")
    return f"hub:{folder / 'saved'}"


@pytest.fixture
def _no_ghostscript(monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import EpsImagePlugin

    def start(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("Ghostscript would be started")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", start)


@pytest.mark.usefixtures("_no_ghostscript")
@pytest.mark.parametrize(
    ("content", "words"),
    [(EPS, "is not an image that can be read"), (bomb(), "above the limit of 64,000,000")],
    ids=["eps", "bomb"],
)
def test_what_a_file_may_not_be(tmp_path: Path, content: bytes, words: str) -> None:
    with pytest.raises(InputError, match=words):
        load_questions(saved(tmp_path, content), limit=1)


def test_a_good_picture_passes(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.new("RGB", (3, 2), "red").save(file, "PNG")
    (question,) = load_questions(saved(tmp_path, file.getvalue()), limit=1)
    assert question.image.size == (3, 2)


def test_pictures_as_files_of_their_own(tmp_path: Path) -> None:
    Image.new("RGB", (3, 2), "red").save(tmp_path / "a.png")
    rows = {"image": [str(tmp_path / "a.png")], "question": ["what ?"], "answer": ["red"]}
    made = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    made.save_to_disk(tmp_path / "saved")
    (question,) = load_questions(f"hub:{tmp_path / 'saved'}", limit=1)
    assert question.image.getpixel((0, 0)) == (255, 0, 0)


def test_a_column_with_lists_of_pictures(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.new("RGB", (3, 2), "red").save(file, "PNG")
    rows = {
        "image": [[{"bytes": file.getvalue(), "path": None}]],
        "question": ["q"],
        "answer": ["a"],
    }
    made = datasets.Dataset.from_dict(rows).cast_column("image", datasets.List(datasets.Image()))
    made.save_to_disk(tmp_path / "saved")
    (question,) = load_questions(f"hub:{tmp_path / 'saved'}", limit=1)
    assert question.image.size == (3, 2)
