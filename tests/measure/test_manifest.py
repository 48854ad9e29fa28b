"""Which commit a result says that it was made at."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from foveate.measure.manifest import commit_of


def git(root: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=nobody", "-c", "user.email=nobody@example.org")
    done = subprocess.run(
        ["git", *identity, "-C", str(root), *arguments], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    results = tmp_path / "docs" / "results"
    results.mkdir(parents=True)
    for file in (tmp_path / "code.py", results / "page.md"):
        file.write_text("one\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-q", "-m", "Begin")
    return tmp_path


def test_code_that_differs_is_said_and_results_are_not(clone: Path) -> None:
    head = git(clone, "rev-parse", "HEAD")
    assert commit_of(clone) == head
    (clone / "docs" / "results" / "page.md").write_text("two\n")
    assert commit_of(clone) == head
    (clone / "code.py").write_text("two\n")
    assert commit_of(clone) == f"{head}+changes"


def test_there_is_none_outside_a_clone(tmp_path: Path) -> None:
    assert commit_of(tmp_path) is None
