"""The example of docs/vist.md runs, with tiny random models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from foveate.vist.latents.index_head import IndexConfig, IndexHead
from tests.docs.test_examples import python_blocks
from tests.vist import tiny_vist
from tests.wheel import needs_smollm2


@needs_smollm2
def test_the_page_runs_from_its_first_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shipped, own, *_ = python_blocks("docs/vist.md")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(shipped, names)
    assert "latents" in capsys.readouterr().out
    exec(own, names)
    assert names["answers"].shape[0] == 2


def test_vist_example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, first, looking, forms, index = python_blocks("docs/vist.md")
    names: dict[str, Any] = {
        "model": tiny_vist.model(),
        "tokenizer": tiny_vist.tokenizer(),
        "encoder": tiny_vist.TinyEncoder(),
        "book": tiny_vist.TEXT,
    }
    monkeypatch.chdir(tmp_path)  # it writes a folder
    exec("from foveate import Vist", names)
    exec(first, names)
    assert "tokens -> " in capsys.readouterr().out
    assert names["answers"].shape[0] == 2
    assert not names["run"].report.is_scaled
    names["prompt"] = {"input_ids": tiny_vist.ids(6)[None]}
    exec(looking, names)
    (look,) = names["run"].report.looks
    assert 0 < look.num_raw + look.num_latents <= look.budget
    exec(forms, names)
    assert names["answers"].shape == (1, 7)
    assert (tmp_path / names["folder"] / "book.safetensors").exists()
    torch.manual_seed(0)
    sizes = {"input_width": tiny_vist.FEATURES, "embedding_width": 48}
    names["vist"].parts.index = IndexHead(IndexConfig(**sizes, inner=8, picture_inner=8)).eval()
    names["memory"] = names["vist"].read(tiny_vist.TEXT)
    exec(index, names)
    assert names["scores"].shape == names["memory"].segments.shape
