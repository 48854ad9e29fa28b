"""Links, pipes and devices where files are expected; drafts that take a file's place."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from foveate.errors import InputError
from foveate.files import open_regular, refuse_link, replacing
from foveate.image_file import open_image
from foveate.jobs.journal import Journal
from foveate.measure.parts import Parts
from tests.cli.conftest import Foveate

pytestmark = pytest.mark.skipif(os.name == "nt", reason="pipes and links as on Unix")


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    path = tmp_path / "precious.txt"
    path.write_text("do not touch")
    return path


def test_a_pipe_is_refused_and_holds_up_nobody(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    with pytest.raises(InputError, match=r"pipe\.png' is a pipe, a device or a socket; give a"):
        open_regular(pipe)
    for path in (pipe, Path("/dev/zero"), Path("/dev/null")):
        with pytest.raises(InputError, match="is a pipe, a device or a socket"):
            open_image(path)
    with pytest.raises(InputError, match="is a folder"):
        open_regular(tmp_path)


def test_a_link_to_a_regular_file_is_read(precious: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(precious)
    with open_regular(link) as file:
        assert file.read() == b"do not touch"


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.txt"
    with replacing(path) as file:
        file.write(b"first")
        assert not path.exists()
    assert path.read_bytes() == b"first"

    def torn() -> None:
        with replacing(path) as file:
            file.write(b"second, torn")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        torn()
    assert path.read_bytes() == b"first"
    assert [entry.name for entry in path.parent.iterdir()] == ["file.txt"]


def test_a_planted_draft_is_not_followed(precious: Path, tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    (tmp_path / "file.txt.draft").symlink_to(precious)
    with replacing(path) as file:
        file.write(b"mine")
    assert path.read_bytes() == b"mine"
    assert precious.read_text() == "do not touch"


def test_a_planted_target_is_replaced_not_followed(precious: Path, tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.symlink_to(precious)
    with replacing(path) as file:
        file.write(b"mine")
    assert not path.is_symlink()
    assert precious.read_text() == "do not touch"


def test_a_planted_journal_is_not_followed(precious: Path, tmp_path: Path) -> None:
    path = tmp_path / "journal-00000.jsonl"
    path.symlink_to(precious)
    with pytest.raises(InputError, match="cannot be written"):
        Journal(path)
    assert precious.read_text() == "do not touch"


def test_a_planted_part_is_not_followed(precious: Path, tmp_path: Path) -> None:
    parts = Parts(folder=tmp_path / "parts")
    assert parts.folder is not None
    parts.folder.mkdir()
    (parts.folder / f"a.json.{os.getpid()}.draft").symlink_to(precious)
    assert parts.kept("a", {}, lambda: {"x": 1}) == {"x": 1}
    assert precious.read_text() == "do not touch"


def test_a_folder_that_became_a_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "parts").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="is a link, and what is written there would go elsewhere"):
        refuse_link(tmp_path / "parts")


@pytest.mark.parametrize("name", ["job.json", "journal-00000.jsonl", "model.json", "summary.json"])
def test_a_job_follows_no_link_in_its_parts(
    foveate: Foveate, batch_command: list[str], precious: Path, tmp_path: Path, name: str
) -> None:
    parts = tmp_path / "out.jsonl.parts"
    parts.mkdir()
    (parts / name).symlink_to(precious)
    (parts / f"{name}.draft").symlink_to(precious)
    (tmp_path / "out.jsonl.draft").symlink_to(precious)
    foveate(
        *batch_command,
        "--output",
        tmp_path / "out.jsonl",
        ok=name in ("model.json", "summary.json"),
    )
    assert precious.read_text() == "do not touch"


def test_a_job_whose_parts_are_a_link(
    foveate: Foveate, batch_command: list[str], tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "out.jsonl.parts").symlink_to(elsewhere)
    done = foveate(*batch_command, "--output", tmp_path / "out.jsonl", ok=False)
    assert "out.jsonl.parts is a link" in done.stderr.replace("\n", "")
    assert not list(elsewhere.iterdir())


def test_commands_refuse_a_pipe_as_image(
    foveate: Foveate, checkpoint: Path, tmp_path: Path
) -> None:
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    asked = foveate("ask", pipe, "what ?", "--model", checkpoint, ok=False)
    assert "is a pipe, a device or a socket" in asked.stderr.replace("\n", " ")
    lines = tmp_path / "in.jsonl"
    lines.write_text('{"image": "pipe.png", "question": "what ?"}\n')
    Image.new("RGB", (8, 8)).save(tmp_path / "good.png")
    with lines.open("a") as file:
        file.write('{"image": "good.png", "question": "what ?"}\n')
    out: Any = tmp_path / "out.jsonl"
    foveate("run", "--model", checkpoint, "--input", lines, "--output", out, "--keep", "4",
            "--max-new-tokens", "2")  # fmt: skip
    assert "is a pipe" in (tmp_path / "out.jsonl.errors.jsonl").read_text()
    assert out.read_text().count("\n") == 1
