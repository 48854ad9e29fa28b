"""Journal: what was appended is there after a kill at any byte, and nothing else is."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foveate.errors import InputError
from foveate.jobs.journal import Journal, read_journal, record_at

RECORDS = st.lists(
    st.dictionaries(st.text(max_size=4), st.text(max_size=12) | st.integers()), max_size=8
)


def records(path: Path) -> list[dict[str, Any]]:
    return [record for _, record in read_journal(path)]


@settings(max_examples=60, deadline=None)
@given(before=RECORDS, after=RECORDS, cut=st.integers(0, 400), junk=st.binary(max_size=40))
def test_a_torn_end_is_dropped_and_the_rest_goes_on(
    before: list[dict[str, Any]], after: list[dict[str, Any]], cut: int, junk: bytes
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal.jsonl"
        with Journal(path) as journal:
            journal.append(before)
        whole = path.read_bytes()
        left = whole[: max(0, len(whole) - cut)]
        path.write_bytes(left + junk)
        num_left = left.count(b"\n")
        found = records(path)
        # Junk may at best complete the line that was cut off.
        assert found == before[: len(found)]
        assert len(found) >= num_left
        with Journal(path) as journal:
            journal.append(after)
        assert records(path) == before[: len(found)] + after


@pytest.mark.parametrize(
    "spoil",
    [
        lambda line: line[:-1],
        lambda line: line[:-2] + b"\n",
        lambda line: line.replace(b"7", b"8"),
        lambda line: b"\0" * len(line),
        lambda line: b"\n",
    ],
    ids=["no newline", "half a line", "another digit", "a hole", "empty"],
)
def test_reading_stops_at_the_first_line_that_is_not_whole(tmp_path: Path, spoil: Any) -> None:
    """Whole lines behind a hole were never synced as such, so they do not count."""
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        journal.append([{"line": 1}, {"line": 7}, {"line": 3}])
    first, second, third = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + spoil(second) + third)
    assert records(path) == [{"line": 1}]
    Journal(path).close()
    assert path.read_bytes() == first


def test_records_are_found_by_place(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    made = [{"line": i, "answer": "ü\n" * i} for i in range(5)]
    with Journal(path) as journal:
        journal.append(made)
    with path.open("rb") as file:
        for place, record in reversed(list(read_journal(path))):
            assert record_at(file, place) == record


def test_a_write_that_takes_less_is_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: real(handle, bytes(data[:3])))
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        journal.append([{"line": 1}, {"line": 2}])
    assert records(path) == [{"line": 1}, {"line": 2}]


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any) -> int:
        raise OSError(28, "No space left on device")

    with Journal(tmp_path / "journal.jsonl") as journal:
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(InputError, match=r"cannot be written \(No space left.*make room"):
            journal.append([{"line": 1}])


def test_a_journal_has_one_writer(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    code = f"""
from pathlib import Path
from foveate.jobs.journal import Journal
Journal(Path({str(path)!r})).append([{{"line": 1}}])
print("written", flush=True)
input()
"""
    other = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "written\n"
        with pytest.raises(InputError, match="is being written by another run; wait for it"):
            Journal(path)
    finally:
        other.kill()
        other.communicate()
    with Journal(path) as journal:  # a lock does not outlive its process
        journal.append([{"line": 2}])
    assert records(path) == [{"line": 1}, {"line": 2}]
