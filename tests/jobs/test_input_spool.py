"""Input that is no JSON Lines: the same lines whatever form they came in, and bounded."""

from __future__ import annotations

import gzip
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from foveate.errors import InputError
from foveate.jobs import input_spool
from foveate.jobs.batch_input import InputFile
from foveate.jobs.input_spool import STDIN, open_input

LINES = b'{"image": "a.png", "question": "what?"}\n\n{"question": "why \xc3\xa9?", "id": "007"}\n'


def rows(questions: InputFile) -> list[Any]:
    return [json.loads(line) for line in questions.lines.read(questions.places(0, 99))]


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl.parts"


def test_json_lines_stay_where_they_are(tmp_path: Path, parts: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(LINES)
    assert open_input(path, parts).path == path
    assert not parts.exists()


@pytest.mark.parametrize("name", ["in.jsonl.gz", "in.gz", "in.jsonl"])
def test_gzip_is_the_same_job(tmp_path: Path, parts: Path, name: str) -> None:
    plain, packed = tmp_path / "plain.jsonl", tmp_path / "folder" / name
    packed.parent.mkdir()
    plain.write_bytes(LINES)
    packed.write_bytes(
        gzip.compress(LINES[:20], mtime=0) + gzip.compress(LINES[20:])
    )  # two members
    one, other = open_input(plain, parts), open_input(packed, parts)
    assert one.fingerprint == other.fingerprint
    assert one.places(0, 9) == other.places(0, 9)
    assert other.lines.folder == packed.parent
    assert other.path.parent == parts
    assert open_input(packed, parts).path == other.path
    assert len(list(parts.iterdir())) == 1  # the same content is the same file, no draft is left


def test_standard_input(tmp_path: Path, parts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(LINES)))
    questions = open_input(STDIN, parts)
    assert [row.get("id") for row in rows(questions)] == [None, "007"]
    assert questions.lines.folder == Path()


CSV = (
    "\ufeffid,image,question,text_only,messages\r\n"
    '007,a.png,"what, then?",,\r\n'
    "\r\n"
    '8,,"line one\nline two",TRUE,\r\n'
    "9,,why?,,\r\n"
    '10,a.png,,,"[{""role"": ""user"", ""content"": ""x""}]"\r\n'
)


@pytest.mark.parametrize("kind", [".csv", ".tsv", ".csv.gz"])
def test_tables(tmp_path: Path, parts: Path, kind: str) -> None:
    text = CSV if "csv" in kind else CSV.replace(",", "\t").replace("what\t", "what,")
    body = text.replace('\t ""content', ', ""content').encode()
    path = tmp_path / f"in{kind}"
    path.write_bytes(gzip.compress(body, mtime=0) if kind.endswith("gz") else body)
    questions = open_input(path, parts)
    assert [place.number for place in questions.places(0, 9)] == [1, 3, 4, 5]  # rows, header not
    first, second, third, fourth = rows(questions)
    assert first == {"id": "007", "image": "a.png", "question": "what, then?",
                     "text_only": False, "messages": ""}  # fmt: skip
    assert second["question"] == "line one\nline two"
    assert second["text_only"] is True
    assert third["image"] is None  # an error of its line, see batch_row.py
    assert fourth["messages"] == [{"role": "user", "content": "x"}]


def test_parquet(tmp_path: Path, parts: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = pyarrow.Table.from_pylist(
        [
            {"id": 7, "image": {"bytes": b"PNG", "path": "a.png"}, "weight": float("nan")},
            {"id": 8, "image": {"bytes": None, "path": "b.png"}, "weight": 0.5},
            {"id": 9, "image": None, "weight": 1.0},
        ]
    )
    path = tmp_path / "in.parquet"
    parquet.write_table(table, path)
    assert rows(open_input(path, parts)) == [
        {"id": 7, "image": "data:;base64,UE5H", "weight": None},
        {"id": 8, "image": "b.png", "weight": 0.5},
        {"id": 9, "image": None, "weight": 1.0},
    ]
    for odd, words in ((b"x", "column 'odd' holds bytes"), (float("inf"), "not JSON compliant")):
        parquet.write_table(pyarrow.Table.from_pylist([{"odd": odd}]), path)
        with pytest.raises(InputError, match=f"cannot be read behind row 1 .*{words}"):
            open_input(path, parts)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match="cannot be read behind row 0"):
        open_input(path, parts)
    assert [file.name for file in parts.iterdir() if "draft" in file.name] == []


def test_parquet_with_a_column_twice(tmp_path: Path, parts: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    cells = [pyarrow.array(["a"]), pyarrow.array(["b"])]
    table = pyarrow.Table.from_arrays(cells, names=["question", "question"])
    parquet.write_table(table, tmp_path / "in.parquet")
    with pytest.raises(InputError, match="name each column once"):
        open_input(tmp_path / "in.parquet", parts)


@pytest.mark.parametrize("cell", ["[NaN]", "[1e999]", "[1"])
def test_a_cell_that_is_no_json_is_an_error_of_its_line(
    tmp_path: Path, parts: Path, cell: str
) -> None:
    (tmp_path / "in.csv").write_text(f"messages\n{cell}\n")
    questions = open_input(tmp_path / "in.csv", parts)
    (line,) = questions.lines.read(questions.places(0, 1))
    assert json.loads(line) == {"messages": cell}


def test_parquet_without_its_package(
    tmp_path: Path, parts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "in.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"needs the package pyarrow; install .*foveate\[parquet"):
        open_input(tmp_path / "in.parquet", parts)


def test_a_bomb_is_refused_before_it_fills_the_disk(
    tmp_path: Path, parts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(input_spool, "FREE_UNPACKED", 1 << 16)
    path = tmp_path / "in.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"question": "what?"}\n' * 200_000, mtime=0))
    with pytest.raises(InputError, match="unpacks to more than 100 times its size"):
        open_input(path, parts)
    assert list(parts.iterdir()) == []
    path.write_bytes(gzip.compress(b'{"question": "what?"}\n' * 2000, mtime=0))
    assert len(open_input(path, parts)) == 2000


def test_a_line_without_end_is_refused(
    tmp_path: Path, parts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from foveate.jobs import batch_input

    monkeypatch.setattr(batch_input, "MAX_LINE", 1000)
    for name, body in (("in.jsonl", bytes(2000)), ("in.gz", gzip.compress(bytes(2000)))):
        (tmp_path / name).write_bytes(body)
        with pytest.raises(InputError, match="line 1 of the input has more than"):
            open_input(tmp_path / name, parts)


@pytest.mark.parametrize(
    ("name", "body", "words"),
    [
        ("in.gz", gzip.compress(LINES, mtime=0)[:-12], "cannot be read .*ended before"),
        ("in.gz", b"\x1f\x8b" + b"x" * 99, "cannot be read"),
        ("in.gz", gzip.compress(b" \n", mtime=0), "the input holds no lines"),
        ("in.csv", b"a,a\n1,2\n", "name each column once"),
        ("in.csv", b"a,\n1,2\n", "name each column once"),
        ("in.csv", b"a,b\n1,2,3\n", "line 2 of the table has 3 cells, and the header 2"),
        ("in.csv", b'a,b\n1,"2\n', "cannot be read as CSV"),
        ("in.csv", b"a\n\xff\n", "cannot be read as CSV in UTF-8"),
        ("in.csv", b"", "the input holds no lines"),
        ("in.csv", b"a,b\n", "the input holds no lines"),
    ],
)
def test_inputs_that_are_broken(
    tmp_path: Path, parts: Path, name: str, body: bytes, words: str
) -> None:
    (tmp_path / name).write_bytes(body)
    with pytest.raises(InputError, match=words):
        open_input(tmp_path / name, parts)
    assert list(parts.glob("*")) == []


def test_parts_that_are_a_link(tmp_path: Path, parts: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    parts.symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in.gz").write_bytes(gzip.compress(LINES, mtime=0))
    with pytest.raises(InputError, match="is a link, and what is written there"):
        open_input(tmp_path / "in.gz", parts)
