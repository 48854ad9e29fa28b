"""A name that no file system takes is refused in a sentence, wherever a file is expected."""

from __future__ import annotations

from pathlib import Path

import pytest

from foveate.errors import ConfigError
from foveate.vist.train.recipe import load_recipe
from tests.cli.conftest import Foveate

LONG = "a sentence that somebody pasted where a file belongs " * 8
COMMANDS = [
    ("ask", LONG, "what ?"),
    ("read", LONG, "--ask", "what ?"),
    ("pages", LONG, "--ask", "what ?"),
    ("render", LONG),
    ("compare", "--data", LONG),
    ("train", LONG),
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_a_name_that_is_too_long(foveate: Foveate, command: tuple[str, ...]) -> None:
    done = foveate(*command, ok=False)
    assert done.exit_code == 2
    assert "Error" in done.stderr or "." in done.stderr
    assert "Traceback" not in done.stderr


def test_a_long_question_is_no_file(foveate: Foveate, checkpoint: Path, picture: Path) -> None:
    foveate("ask", picture, f"what color is it ? {'is it ? ' * 60}", "--model", checkpoint)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        (".".join(["a"] * 3000) + "=1", "a key of 3,000 parts"),
        ("data.files=" + "[" * 40 + "]" * 40, "is nested more than 16 deep"),
        ("vist.resampler.width=999999999999", "is no number that a setting can have"),
        ("stages.0.lr=inf", "stages.0.lr = inf is no number that a setting can have"),
        ("run.seed=-1", "run got seed=-1"),
    ],
)
def test_absurd_settings_of_a_recipe(setting: str, words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load_recipe("vist-smollm2-cpu", [setting])
    assert words in str(refused.value)
