"""Text files are read in pieces; what is no text is refused with a sentence."""

from __future__ import annotations

import io
import logging
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from foveate.errors import InputError
from foveate.text_image.render import Renderer
from foveate.text_image.text_file import CHUNK_BYTES, decode_text, read_text_file


def written(folder: Path, data: bytes) -> Path:
    path = folder / "text.txt"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"one\r\ntwo\rthree\n", "one\ntwo\nthree\n"),
        (b"\xef\xbb\xbfmarked", "marked"),
        ("žluťoučký λ 漢 🙂".encode(), "žluťoučký λ 漢 🙂"),
        (b"\r", "\n"),
        (b" ", " "),
    ],
)
def test_text_as_python_opens_it(tmp_path: Path, data: bytes, text: str) -> None:
    assert "".join(read_text_file(written(tmp_path, data))) == text


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "latin-1", "cp1252"])
def test_other_encodings(tmp_path: Path, encoding: str) -> None:
    path = written(tmp_path, "naïve café\n".encode(encoding))
    assert "".join(read_text_file(path, encoding)) == "naïve café\n"


@pytest.mark.parametrize("cut", range(5))
def test_characters_and_line_ends_may_lie_across_pieces(cut: int) -> None:
    text = "x" * (CHUNK_BYTES - cut) + "漢\r\n" + "y" * 10
    pieces = list(decode_text(io.BytesIO(text.encode()), "it"))
    assert "".join(pieces) == text.replace("\r\n", "\n")
    assert all(pieces)


def test_a_few_broken_bytes_are_shown_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = written(tmp_path, b"caf\xe9 and " * 3 + b"plain words " * 30)
    with caplog.at_level(logging.WARNING):
        text = "".join(read_text_file(path))
    assert text.startswith("caf\ufffd and ")
    assert "3 undecodable bytes were read as U+FFFD" in caplog.text


@pytest.mark.parametrize(
    ("data", "encoding", "message"),
    [
        (b"", "utf-8", "is empty; there is nothing to read."),
        (b"\xef\xbb\xbf", "utf-8", "is empty; there is nothing to read."),
        (b"GIF89a\0\0\1", "utf-8", "holds NUL characters, so it is a binary file"),
        (bytes(range(128, 256)) * 8, "utf-8", "are not utf-8, above 5 %, so it is a binary file"),
        (
            "wide".encode("utf-16"),
            "utf-8",
            "is utf-16 text, not utf-8; give utf-16 as its encoding.",
        ),
        (b"\xff\xfea", "utf-16", "is not utf-16 text (truncated data"),
        (b"text", "utf-9", "encoding 'utf-9' is not known; utf-8 is usual."),
    ],
)
def test_what_is_no_text(tmp_path: Path, data: bytes, encoding: str, message: str) -> None:
    with pytest.raises(InputError) as raised:
        "".join(read_text_file(written(tmp_path, data), encoding))
    assert message in str(raised.value)


def test_a_wrong_path_fails_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder; give a text file"):
        read_text_file(tmp_path)
    with pytest.raises(InputError, match="does not exist; check the path"):
        read_text_file(tmp_path / "absent.txt")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(InputError, match=r"cannot be reached \(Too many levels"):
        read_text_file(tmp_path / "loop")
    with pytest.raises(InputError, match="NUL"):
        read_text_file(written(tmp_path, b"\0" * 10))


def test_binary_data_after_a_long_text_is_noticed(tmp_path: Path) -> None:
    path = written(tmp_path, b"words " * 40_000 + b"\0\1\2")
    pieces = read_text_file(path)
    assert next(pieces).startswith("words")
    with pytest.raises(InputError, match="NUL"):
        list(pieces)


def test_a_long_file_is_drawn_in_bounded_memory(tmp_path: Path) -> None:
    line = "The quick brown fox jumps over the lazy dog, again and again.\n"
    path = written(tmp_path, line.encode() * 20_000)
    renderer = Renderer()
    renderer.render(line)
    tracemalloc.start()
    pages = chars = 0
    for strips in renderer.stream(read_text_file(path)):
        pages, chars = pages + len(strips), chars + len(strips.char_page)
        ink = bool(np.any(strips.pixels < 255))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert ink
    assert chars == 20_000 * len(line)
    assert pages > 1_500  # 75 MB of pixels
    assert peak < 20e6
