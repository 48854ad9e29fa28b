"""The examples of docs/training.md run; what it says about the files is so."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.state import AcceleratorState, GradientState

from foveate.vist.train.objectives import OBJECTIVES
from foveate.vist.train.recipe import recipe_names
from foveate.vist.train.token_counts import TokenCounts
from tests.docs.test_examples import python_blocks
from tests.vist import tiny_vist

ROOT = Path(__file__).resolve().parents[2]
PAGE = "docs/training.md"


def test_examples(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    names: dict[str, Any] = {
        "folder": tmp_path, "model": tiny_vist.model(), "tokenizer": tiny_vist.tokenizer(),
    }  # fmt: skip
    train, count = python_blocks(PAGE)
    exec(train, names)
    assert capsys.readouterr().out.splitlines()[0] == "1 distil"
    assert (tmp_path / "vist" / "vist.json").exists()
    exec(count, names)
    assert TokenCounts.load(tmp_path / "counts.safetensors").num_samples == 2


def test_tables_are_complete() -> None:
    page = (ROOT / PAGE).read_text()
    rows = re.findall(r"^\| `([\w-]+)` \|", page, re.M)
    assert set(rows) == {*recipe_names(), *OBJECTIVES}


def test_the_fsdp_file_is_one_that_accelerate_reads() -> None:
    page = (ROOT / PAGE).read_text()
    (path,) = re.findall(r"--config_file (\S+)", page)
    config = load_config_from_file(str(ROOT / path))
    assert config.distributed_type == "FSDP"
    assert config.fsdp_config["fsdp_version"] == 2
