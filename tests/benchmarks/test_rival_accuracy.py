"""Answers beside the rival: shares put together in order, sets compared, failures said."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from benchmarks.rival.accuracy import Answered, Theirs, row_of, shared
from foveate.errors import InputError
from foveate.tasks.question import Question

# Answers 10 times the prompt's first token, and keeps the places 1 and 3 of every prompt.
FAKE = """#!{python}
import json, sys
from pathlib import Path
from benchmarks.rival.prompts_file import load_prompts
given = dict(zip(sys.argv[3::2], sys.argv[4::2]))
prompts = load_prompts(Path(given["--prompts"]))
ids = [[10 * int(prompt["input_ids"][0, 0])] for prompt in prompts]
found = {{"ids": ids, "kept": [[1, 3]] * len(prompts)}}
answers = {{"full": {{"cached": {{"ids": ids, "kept": []}}}}, "fastv": {{"cached": found}}}}
open(given["--out"], "w").write(json.dumps({{"answers": answers, "versions": {{"torch": "1"}}}}))
"""


def executable(folder: Path, text: str) -> Path:
    path = folder / "python"
    path.write_text(text)
    path.chmod(0o755)
    return path


def prompts(count: int) -> list[dict[str, Any]]:
    return [{"input_ids": torch.tensor([[i, 7, 7, 7]])} for i in range(count)]


VLM = SimpleNamespace(
    tokenizer=SimpleNamespace(batch_decode=lambda ids, **_: [str(one[0]) for one in ids])
)


@pytest.mark.parametrize("jobs", [1, 2, 3])
def test_shares_are_joined_in_order(tmp_path: Path, jobs: int) -> None:
    python = executable(tmp_path, FAKE.format(python=sys.executable))
    asked = Theirs(prompts(5), python, tmp_path, jobs)
    arms, versions = asked.answers(VLM, [[1, 2, 3]] * 5)
    assert versions == {"torch": "1"}
    assert arms["fastv"]["cached"].texts == ["0", "10", "20", "30", "40"]
    assert arms["fastv"]["cached"].kept == [frozenset({0, 2})] * 5
    assert arms["full"]["cached"].kept == []


def test_a_failure_is_said(tmp_path: Path) -> None:
    asked = Theirs(prompts(2), executable(tmp_path, "#!/bin/sh\nexit 3\n"), tmp_path, 1)
    with pytest.raises(InputError, match=r"did not answer \(3, see above\)"):
        asked.answers(VLM, [[1]] * 2)


def test_sets_are_compared_by_what_both_kept() -> None:
    a = Answered(texts=["", ""], kept=[frozenset({1, 2}), frozenset({1, 2})])
    b = Answered(texts=["", ""], kept=[frozenset({1, 2}), frozenset({2, 3})])
    assert shared(a, b) == (0.75, 0.5)


def test_gaps_are_to_their_answers_with_positions_mended() -> None:
    image = Image.new("RGB", (1, 1))
    questions = [
        Question(image=image, question="", answers=(f"{i}",), kind="k", image_id=f"{i}", id=f"{i}")
        for i in range(4)
    ]
    sets = [frozenset({0})] * 4
    own = {"cached": Answered(texts=["0", "1", "2", "no"], kept=sets)}
    rival = {
        "cached": Answered(texts=["no"] * 4, kept=sets),
        "positions mended": Answered(texts=["0", "1", "no", "no"], kept=sets),
    }
    row = row_of("divprune", own, rival, questions)
    assert row["ours"]["cached"]["value"] == 75
    assert row["theirs"]["cached"]["value"] == 0
    assert row["ours_minus_theirs"]["value"] == 25
    assert row["same_answers"] == 0.75
    assert row["common"] == row["equal_sets"] == 1
