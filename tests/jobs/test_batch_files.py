"""What the end of a job says about its lines."""

from __future__ import annotations

import json
from pathlib import Path

from foveate.jobs.batch_files import JobFiles, merge
from foveate.jobs.batch_input import InputFile
from foveate.jobs.journal import Journal
from foveate.jobs.outcome import Outcome


def summary_of(ids: list[str], folder: Path) -> str:
    lines = [
        {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": {}}
        for name in ids
    ]
    source = folder / "in.jsonl"
    source.write_text("\n".join(map(json.dumps, lines)))
    files = JobFiles(output=folder / "out.jsonl", errors=folder / "bad.jsonl")
    files.parts.mkdir()
    with Journal(files.journal(0)) as journal:
        journal.append([Outcome(line=n, answer="yes").to_dict() for n in range(1, len(ids) + 1)])
    return str(merge(InputFile(source), files, model="tiny"))


def test_a_custom_id_on_several_lines_is_said(tmp_path: Path) -> None:
    said = summary_of(["a", "b", "a", "a"], tmp_path)
    assert "2 lines with a custom_id that an earlier line has too" in said
    written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["response"]["request_id"] for row in written] == [f"line-{n}" for n in (1, 2, 3, 4)]


def test_custom_ids_of_their_own(tmp_path: Path) -> None:
    assert "custom_id" not in summary_of(["a", "b"], tmp_path)
