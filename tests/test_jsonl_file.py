"""JSON Lines: what is read, and one sentence for each thing that can be wrong."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from foveate.errors import InputError
from foveate.jsonl_file import parse_row, read_rows, row_at

FIX = 'write {"text": "..."}.'


def write(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    return path


def test_rows_know_their_lines(tmp_path: Path) -> None:
    # A byte order mark, an empty line, Windows' line ends, a separator that is no line end in JSON.
    path = write(tmp_path, '\ufeff{"text": "a"}\r\n\r\n{"text": "b\u2028c"}'.encode())
    rows = list(read_rows(path, fix=FIX))
    assert [(row.number, row.text("text")) for row in rows] == [(1, "a"), (3, "b\u2028c")]
    assert rows[1].where == f"{path}, line 3"


def test_lines_after_the_last_that_was_asked_for_are_not_read(tmp_path: Path) -> None:
    rows = read_rows(write(tmp_path, b'{"text": "a"}\nbroken\n'), fix=FIX)
    assert next(rows).text("text") == "a"
    with pytest.raises(InputError, match="line 2: not JSON"):
        next(rows)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON (Expecting property name enclosed in double quotes); " + FIX),
        ('{"text": NaN}', "not JSON (NaN is no JSON number); " + FIX),
        ('{"text": -Infinity}', "not JSON (-Infinity is no JSON number); " + FIX),
        ("[1]", "got list, not an object; " + FIX),
        ("null", "got NoneType, not an object; " + FIX),
        (b"\xff", "not UTF-8 text (invalid start byte); save the file as UTF-8."),
    ],
)
def test_lines_that_are_no_rows(line: str | bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        parse_row(line, fix=FIX)
    assert str(caught.value) == message
    with pytest.raises(InputError) as caught:
        row_at(line, tmp_path / "x.jsonl", 7, fix=FIX)
    assert str(caught.value) == f"{tmp_path / 'x.jsonl'}, line 7: {message}"


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(InputError, match="not JSON"):
        parse_row("[" * 100_000, fix=FIX)


@pytest.mark.parametrize(
    ("value", "found"), [('"a"', ("a",)), ("1.5", ("1.5",)), ('["a", 2, true]', ("a", "2", "True"))]
)
def test_texts(value: str, found: tuple[str, ...], tmp_path: Path) -> None:
    row = row_at(f'{{"answers": {value}}}', tmp_path, 1, fix=FIX)
    assert row.texts("answers") == found


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("null", "'answers' is missing or empty"),
        ("[]", "'answers' is missing or empty"),
        ("{}", "'answers' is missing or empty"),
        ('["a", null]', "'answers' holds something that is not a text"),
        ("[[1]]", "'answers' holds something that is not a text"),
    ],
)
def test_fields_that_are_no_texts(value: str, message: str, tmp_path: Path) -> None:
    row = row_at(f'{{"answers": {value}}}', tmp_path, 1, fix=FIX)
    with pytest.raises(InputError, match=re.escape(f"line 1: {message}; {FIX}")):
        row.texts("answers")


@pytest.mark.parametrize("line", ["{}", '{"text": 3}', '{"text": null}'])
def test_fields_that_are_no_text(line: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"line 1: 'text' is missing or not a text; {FIX}"):
        row_at(line, tmp_path, 1, fix=FIX).text("text")


def test_blank_texts_are_refused_where_they_cannot_be(tmp_path: Path) -> None:
    row = row_at('{"text": " "}', tmp_path, 1, fix=FIX)
    assert row.text("text") == " "
    with pytest.raises(InputError, match="'text' is missing or not a text"):
        row.text("text", can_be_blank=False)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read as UTF-8 text"):
        list(read_rows(tmp_path / "none.jsonl", fix=FIX))
    with pytest.raises(InputError, match="cannot be read as UTF-8 text"):
        list(read_rows(write(tmp_path, b'{"text": "\xff"}\n'), fix=FIX))


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="is a pipe, a device or a socket"):
        next(read_rows(tmp_path / "pipe", fix=FIX))
