"""The page about evaluations: its Python runs, its commands exist."""

from __future__ import annotations

import re
import shlex
from typing import Any

import pytest
import torch
import typer

from foveate.cli.main import app
from foveate.tasks.documents import Document
from tests.cli.tiny_vist_folder import letter_tokenizer, tiny_llm
from tests.docs.test_examples import ROOT, python_blocks

PAGES = ("docs/evaluation.md", "docs/command-line.md")
COMMANDS = [
    line
    for page in PAGES
    for block in re.findall(r"```bash\n(.*?)```", (ROOT / page).read_text(), re.S)
    for line in block.splitlines()
    if line.startswith("foveate eval")
]


def test_python_blocks(capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = letter_tokenizer()
    text = "the harbour master wrote the number of every boat in a green book. " * 3
    names: dict[str, Any] = {
        "model": tiny_llm(),
        "tokenizer": tokenizer,
        "document": text,
        "prompt": torch.tensor([tokenizer("What?")["input_ids"]]),
        "documents": [Document(text=f"{i} {text}", id=str(i), domain="sea") for i in range(2)],
    }
    cepe, own = python_blocks("docs/evaluation.md")
    exec(cepe, names)
    assert names["memory"].num_latents == 64
    assert names["answer"].shape == (1, 9)
    exec(own, names)
    shown = capsys.readouterr().out
    assert "| vist-shuffled | 64 |" in shown


def test_every_evaluation_has_a_command() -> None:
    found = {line.split()[3] for line in COMMANDS}
    assert found == {"perplexity", "icl", "qa", "recall", "retrieval"}


@pytest.mark.parametrize("line", COMMANDS)
def test_options_of_commands_exist(line: str) -> None:
    command: Any = typer.main.get_command(app)
    words = shlex.split(line)[1:]
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    known = {name for option in command.params for name in option.opts}
    assert {word for word in words if word.startswith("--")} <= known
