"""`foveate serve`: what it prints, and that it becomes vLLM."""

from __future__ import annotations

import json
import sys

import pytest

from foveate.cli import serve as module
from foveate.vllm import command
from tests.cli.conftest import Foveate


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """vLLM as if it were installed; what it was started with."""
    found: list[list[str]] = []
    monkeypatch.setattr(command, "check_installed", lambda environment: None)
    monkeypatch.setattr(module.os, "execv", lambda path, words: found.append([path, *words]))
    return found


def test_it_becomes_vllm(foveate: Foveate, started: list[list[str]]) -> None:
    done = foveate("serve", "embedded", "--keep", "64", "--port", "8001", "--enforce-eager")
    assert done.exit_code == 0
    assert "foveate: 64 of the 196 visual tokens of an image go on" in done.stderr
    (words,) = started
    assert words[:2] == [sys.executable, sys.executable]
    assert words[-3:-1] == ["--enforce-eager", "--additional-config"]
    assert words[words.index("--port") + 1] == "8001"
    assert json.loads(words[-1]) == {"foveate": {"method": "tokencarve", "keep_tokens": 64}}


def test_a_budget_above_the_image(foveate: Foveate, started: list[list[str]]) -> None:
    done = foveate("serve", "embedded", "--keep", "500", ok=False)
    assert done.exit_code == 2
    assert "keep_tokens=500 exceeds the 196 visual tokens of image 0" in done.stderr
    assert not started


def test_a_method_that_reads_the_question(foveate: Foveate, started: list[list[str]]) -> None:
    done = foveate("serve", "embedded", "--method", "sparsevlm", ok=False)
    assert done.exit_code == 2
    assert "sparsevlm cuts between decoder layers" in done.stderr
    assert not started


def test_ages_go_on_in_place_of_a_budget(foveate: Foveate, started: list[list[str]]) -> None:
    done = foveate("serve", "embedded", "--ages", "50%,10%", "--age-step", "4")
    assert done.exit_code == 0
    assert "foveate: 98 of the 196 visual tokens of an image go on" in done.stderr
    assert json.loads(started[0][-1]) == {
        "foveate": {"method": "tokencarve", "ages": [0.5, 0.1], "age_step": 4}
    }


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--ages", "50%", "--keep", "25%"], "--keep 25% and --ages 50% are given; give one"),
        (["--ages", "10%,50%"], "ages=[0.1, 0.5] rise; older images cannot keep more"),
        (["--ages", "50%,16"], "ages '50%,16' has '16', which is no share of an image's tokens"),
    ],
)
def test_ages_that_cannot_be(
    foveate: Foveate, started: list[list[str]], options: list[str], text: str
) -> None:
    done = foveate("serve", "embedded", *options, ok=False)
    assert done.exit_code == 2
    assert text in done.stderr
    assert not started
