"""Stdout and stderr that are full, closed, narrow, or cannot show a character."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from foveate.cli import console
from tests.cli.conftest import Foveate

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **more.pop("env", {})}
    return subprocess.run(
        [sys.executable, "-m", "foveate", *arguments],
        env=environment, text=True, stderr=subprocess.PIPE, timeout=120, check=False, **more,
    )  # fmt: skip


@pytest.mark.parametrize("arguments", [("methods",), ("methods", "--json"), ("--help",)])
def test_a_full_device_as_output(arguments: tuple[str, ...]) -> None:
    with open("/dev/full", "w") as full:
        done = run(*arguments, stdout=full)
    assert done.returncode == 2
    assert done.stderr == "foveate: cannot go on: No space left on device.\n"


def test_a_reader_that_leaves() -> None:
    command = f"{sys.executable} -m foveate methods --json | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.stdout.split() == ["[", "1"] or done.stdout.split() == ["[", "0"]
    assert done.stderr == ""


def test_an_encoding_without_the_character(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("東京 a" * 10, encoding="utf-8")
    ascii_only = {"PYTHONIOENCODING": "ascii"}
    options = ("render", str(tmp_path / "text.txt"), "-o", str(tmp_path / "a.png"))
    plain = run(*options, stdout=subprocess.PIPE, env=ascii_only)
    assert "U+6771 \\u6771 10x" in plain.stdout
    data = run(*options, "--json", stdout=subprocess.PIPE, env=ascii_only)
    assert json.loads(data.stdout)["missing"] == {"東": 10, "京": 10}


def test_a_name_that_is_no_text() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "foveate", "render", b"\xff\xfe.txt"],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.count(b"\n") == 1
    assert b"does not exist" in done.stderr


def test_what_takes_long_says_so_outside_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "SAY_EVERY", 0.05)
    with console.err.status("Loading"):
        time.sleep(0.2)
    assert "Loading: 0 s so far\n" in capsys.readouterr().err
    with console.progress_of() as told:
        for done in range(4):
            time.sleep(0.06)
            told("Answering", done, 4)
    shown = capsys.readouterr().err
    assert "Answering: 1 of 4\n" in shown
    assert capsys.readouterr().out == ""


def test_what_is_quick_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with console.err.status("Loading"), console.progress_of() as told:
        told("Answering", 1, 4)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("run", "--input", "a", "--output", "b"), "; the same command goes on where it stopped."),
        (("compare", "--data", "a"), "; the same command with --resume goes on"),
        (("train", "vist-smollm2-cpu"), "; the same command with --resume goes on from the last"),
        (("methods",), "foveate: interrupted."),
    ],
)
def test_an_interrupt_says_how_to_go_on(
    foveate: Foveate, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], words: str
) -> None:
    def interrupt(*given: object, **more: object) -> None:
        raise KeyboardInterrupt

    for name in ("jobs.input_spool.open_input", "tasks.named.load_questions",
                 "vist.train.recipe.load_recipe", "carve.registry.all_methods"):  # fmt: skip
        monkeypatch.setattr(f"foveate.{name}", interrupt)
    done = foveate(*command, code=130)
    assert words in done.stderr
    assert done.stderr.startswith("foveate: interrupted")
