"""The example of docs/vist.md runs, with tiny random models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from foveate.vist.latents.index_head import IndexConfig, IndexHead
from tests.docs.test_examples import python_blocks
from tests.vist import tiny_vist


def test_vist_example(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, looking, forms, index = python_blocks("docs/vist.md")
    names: dict[str, Any] = {
        "model": tiny_vist.model(),
        "tokenizer": tiny_vist.tokenizer(),
        "encoder": tiny_vist.TinyEncoder(),
        "book": tiny_vist.TEXT,
        "folder": tmp_path / "vist",
    }
    names["tokenizer"].padding_side = "left"
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
    assert (names["folder"] / "book.safetensors").exists()
    torch.manual_seed(0)
    sizes = {"input_width": tiny_vist.FEATURES, "embedding_width": 48}
    names["vist"].parts.index = IndexHead(IndexConfig(**sizes, inner=8, picture_inner=8)).eval()
    names["memory"] = names["vist"].read(tiny_vist.TEXT)
    exec(index, names)
    assert names["scores"].shape == names["memory"].segments.shape
