"""The example of docs/fine-tuning.md runs, and says what the page says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from accelerate.state import AcceleratorState, GradientState

from tests.docs.test_examples import python_blocks

ROOT = Path(__file__).resolve().parents[2]
PAGE = "docs/fine-tuning.md"


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")
def test_example(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    (block,) = python_blocks(PAGE)
    names: dict[str, Any] = {"folder": str(tmp_path)}
    exec(block, names)
    assert (tmp_path / "adapter_model.safetensors").exists()
    shown = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    page = " ".join((ROOT / PAGE).read_text().split())
    for label in ("sequence", "training step", "labels"):
        (line,) = [line for line in shown if line.startswith(label + " ")]
        assert line in page, f"the page shows another line than {line!r}"
