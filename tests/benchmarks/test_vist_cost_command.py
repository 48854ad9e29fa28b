"""The cost table as a command."""

from __future__ import annotations

import json
from pathlib import Path

import typer
from PIL import Image
from typer.testing import CliRunner

from benchmarks.vist_cost.__main__ import main


def test_cost(tmp_path: Path) -> None:
    command = typer.Typer()
    command.command()(main)
    result = CliRunner().invoke(
        command,
        ["--tokens", "4096,16384", "--no-count", "--measure", "", "--output", str(tmp_path)],
    )
    assert result.exit_code == 0, result.output
    assert "16,384 tokens" in result.stdout
    rows = json.loads((tmp_path / "cost.json").read_text())["rows"]
    assert {"raw", "cepe", "vist", "vist-reader"} <= {row["arm"] for row in rows}
    page = (tmp_path / "cost.md").read_text()
    assert "against CEPE, where the paper reports -16 % and -50 %" in page
    with Image.open(tmp_path / "cost.png") as plot:
        assert min(plot.size) > 400
