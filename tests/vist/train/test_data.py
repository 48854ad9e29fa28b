"""Documents from files, windows from documents: nothing lost, nothing twice, order repeatable."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from foveate.errors import InputError
from foveate.vist.train.data import FileSource, HubSource
from foveate.vist.train.windows import Window, WindowConfig, WindowStream


def write(path: Path, rows: list[Any]) -> None:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "a.jsonl", [{"text": "one"}, {"text": "zwei ä"}])
    write(tmp_path / "b.jsonl.gz", [{"text": "three"}])
    (tmp_path / "c.txt").write_text("four\nlines", encoding="utf-8")
    return tmp_path


# --- files ---


def test_files_are_read_in_order(folder: Path) -> None:
    source = FileSource([folder / "*.jsonl*", folder / "c.txt"])
    assert list(source.read(0, 1)) == [(0, "one"), (1, "zwei ä"), (2, "three"), (3, "four\nlines")]
    assert list(source.read(1, 2)) == [(1, "zwei ä"), (3, "four\nlines")]
    assert list(source.read(4, 1)) == []


def test_identity_tells_changed_files(folder: Path) -> None:
    before = FileSource([folder / "c.txt"]).identity()
    (folder / "c.txt").write_text("four\nlines more")
    assert FileSource([folder / "c.txt"]).identity() != before


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"text": "a"}\nnot json\n', "line 2: not JSON"),
        ('{"body": "a"}\n', "line 1: 'text' is missing or not a text; .* set data.text"),
        ('["a"]\n', "line 1: got list, not an object"),
    ],
)
def test_broken_lines_are_named(content: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(content)
    with pytest.raises(InputError, match=words):
        list(FileSource([tmp_path / "x.jsonl"]).read(0, 1))


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="matches no file"):
        FileSource([tmp_path / "none*.txt"])
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=re.escape(".txt, .jsonl")):
        FileSource([tmp_path / "x.parquet"])
    (tmp_path / "x.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="is not UTF-8"):
        list(FileSource([tmp_path / "x.txt"]).read(0, 1))


def test_hub_sets_need_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(InputError, match="pip install datasets"):
        HubSource("some/set")


def test_a_data_set_is_streamed(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    write(tmp_path / "rows.jsonl", [{"body": "a"}, {"body": "b"}, {"body": "c"}])
    source = HubSource(str(tmp_path), text="body")
    assert list(source.read(1, 2)) == [(1, "b")]
    assert list(source.read(0, 2)) == [(0, "a"), (2, "c")]
    with pytest.raises(InputError, match=r"no text in the column 'text'; .* one of body"):
        list(HubSource(str(tmp_path)).read(0, 1))
    with pytest.raises(InputError, match="cannot be read"):
        HubSource(str(tmp_path), split="no-such-split")


# --- windows ---


class Words:
    """Documents of numbered words, e.g. "2.0 2.1 2.2"; a token is a word with the space before."""

    def __init__(self, *lengths: int) -> None:
        self.lengths = lengths

    def read(self, first: int, step: int) -> Iterator[tuple[int, str]]:
        for place in range(first, len(self.lengths), step):
            yield place, " ".join(f"{place}.{i}" for i in range(self.lengths[place]))

    def identity(self) -> dict[str, Any]:
        return {"lengths": self.lengths}


def tokenise(text: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    spans = [found.span() for found in re.finditer(r"\s*\S+|\s+", text)]
    ids = []
    for start, stop in spans:
        document, _, word = text[start:stop].strip().partition(".")
        ids.append(1000 * int(document) + int(word) if word else 999_999)
    return np.array(ids), np.array(spans)


def stream(source: Words, number: int = 0, of: int = 1, **fields: Any) -> WindowStream:
    config = WindowConfig(**{"context": 3, "tail": 2, "shuffle": 4, **fields})
    return WindowStream(source, tokenise, config, stream=number, num_streams=of)


def ids(windows: Any, count: int) -> list[list[int]]:
    return [window.ids.tolist() for window in islice(windows, count)]


def test_a_window_is_head_context_tail() -> None:
    window: Window = next(stream(Words(6), shuffle=1))
    assert window.ids.tolist() == [0, 1, 2, 3, 4, 5]
    assert window.text == " 0.1 0.2 0.3"
    assert [window.text[a:b] for a, b in window.offsets] == [" 0.1", " 0.2", " 0.3"]


@pytest.mark.parametrize("split", ["documents", "windows"])
@pytest.mark.parametrize("join", [True, False])
def test_streams_share_an_epoch_without_overlap(split: str, join: bool) -> None:
    source = Words(12, 24, 18, 6, 6, 30)
    found = []
    for number in range(2):
        one = stream(source, number, 2, split=split, join=join, shuffle=1)
        while True:
            window = next(one)
            if one.state()["epoch"]:
                break
            found.append(tuple(window.ids))
    assert len(found) == len(set(found)) == 16
    assert sum(len(window) for window in found) == sum(source.lengths)


def test_short_documents_are_joined() -> None:
    joined = next(stream(Words(4, 2, 4), join=True, shuffle=1))
    # A separator of one token stands between documents.
    assert joined.ids.tolist() == [0, 1, 2, 3, 999_999, 1000]
    assert joined.text.endswith("0.3") or joined.text.endswith("0.3\n\n")
    alone = stream(Words(4, 2, 8), join=False, shuffle=1)
    assert next(alone).ids.tolist()[0] == 2000


def test_shuffling_changes_the_order_only() -> None:
    plain, mixed = stream(Words(120), shuffle=1), stream(Words(120), shuffle=10)
    first, second = ids(plain, 20), ids(mixed, 20)
    assert first != second
    assert sorted(first) == sorted(second)
    assert ids(stream(Words(120), shuffle=10), 20) == second
    assert ids(stream(Words(120), shuffle=10, seed=1), 20) != second


def test_some_windows_of_each_document() -> None:
    found = ids(stream(Words(600, 6), per_document=2, shuffle=1, join=False), 6)
    assert [window[0] // 1000 for window in found] == [0, 0, 1, 0, 0, 1]
    assert found[:2] != found[3:5]  # another lot in each epoch


@pytest.mark.parametrize("split", ["documents", "windows"])
@pytest.mark.parametrize("taken", [0, 1, 5, 8, 23])
def test_a_stream_continues_exactly(split: str, taken: int) -> None:
    source = Words(12, 24, 18, 7, 5, 30)
    whole = stream(source, 1, 2, split=split)
    ids(whole, taken)
    state = json.loads(json.dumps(whole.state()))
    wanted = ids(whole, 15)
    again = stream(source, 1, 2, split=split)
    again.load_state(state)
    assert ids(again, 15) == wanted
    assert again.state() == whole.state()


@pytest.mark.parametrize(("split", "join"), [("documents", True), ("windows", False)])
def test_data_without_a_window_is_refused(split: str, join: bool) -> None:
    with pytest.raises(InputError, match="fills a window of 6 tokens"):
        next(stream(Words(5, 6), 1 if split == "windows" else 0, 2, split=split, join=join))


def test_keys_tell_windows_apart() -> None:
    keys = [window.key for window in islice(stream(Words(60), shuffle=1), 20)]
    assert len(set(keys)) == 10  # two epochs of ten
    assert np.all([len(key) == 32 for key in keys])
