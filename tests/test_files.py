"""Files appear whole or not at all, and nothing but a file is replaced by one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from foveate.errors import InputError
from foveate.files import (
    check_writable,
    make_folder,
    replacing,
    replacing_by_name,
    replacing_folder,
    write_text,
)
from foveate.tensor_file import save_tensors


def fill(write: Callable[[bytes], int]) -> None:
    """Write, until the disk is full."""
    write(b"half")
    raise OSError(28, "disk full")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(OSError, match="full"), replacing(path) as file:
        fill(file.write)
    assert path.read_text() == "old"
    with pytest.raises(OSError, match="full"), replacing_by_name(path) as draft:
        fill(draft.write_bytes)
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_a_failed_folder_leaves_the_old_one(tmp_path: Path) -> None:
    folder = tmp_path / "step"
    with replacing_folder(folder) as draft:
        (draft / "a").write_text("old")
    (tmp_path / ".step").symlink_to(tmp_path / "elsewhere")  # planted
    with pytest.raises(OSError, match="full"), replacing_folder(folder) as draft:
        fill((draft / "a").write_bytes)
    assert (folder / "a").read_text() == "old"
    with replacing_folder(folder) as draft:
        (draft / "b").write_text("new")
    assert [file.name for file in folder.iterdir()] == ["b"]
    assert [file.name for file in tmp_path.iterdir()] == ["step"]


def test_devices_pipes_and_folders_stay(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, what in ((tmp_path / "pipe", "a pipe"), (tmp_path, "a folder"), ("/dev/full", "a ")):
        with pytest.raises(InputError, match=f"is {what}.*give the name of a file"):
            write_text(Path(path), "x")
        with pytest.raises(InputError, match="give the name of a file"):
            check_writable(Path(path))
    assert (tmp_path / "pipe").is_fifo()


def test_what_cannot_be_written_is_known_before(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "deeper" / "a.png")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="is no folder"):
        check_writable(tmp_path / "file" / "a.png")
    with pytest.raises(InputError, match="cannot be written"):
        check_writable(tmp_path / ("x" * 5000) / "a.png")


def test_a_folder_where_a_file_is(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="cannot be a folder to write to"):
        make_folder(tmp_path / "file")
    with pytest.raises(InputError, match="cannot be written"):
        save_tensors(tmp_path / "file" / "a.safetensors", {"a": torch.zeros(1)})
    assert (tmp_path / "file").read_text() == "x"
