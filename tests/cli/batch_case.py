"""A job for `foveate run`: its input, its command, what comes out, and the same half done."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
NUM_GOOD = 20


@pytest.fixture(scope="session")
def batch_input(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty good lines, one of them without a picture, three bad ones, an empty one."""
    folder = tmp_path_factory.mktemp("questions")
    rows: list[Any] = []
    for i in range(NUM_GOOD):
        noise = np.random.default_rng(i).integers(0, 255, (32, 48, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{i}.png")
        question = f"what color is the {('circle', 'rectangle ? is there a triangle')[i % 2]} ?"
        row = {"id": f"q{i}", "image": f"{i}.png", "question": question, "weight": 1.50}
        rows.append(json.dumps(row, indent=None))
    rows[7] = '{"question":"is there a circle ?",  "note": "caf\\u00e9", "size": 1e2 }'
    rows.insert(4, "{half")
    rows.insert(5, json.dumps({"id": 77, "image": "gone.png", "question": "what ?"}))
    rows.insert(15, json.dumps({"image": "1.png"}))
    rows.insert(9, "")
    path = folder / "in.jsonl"
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.fixture(scope="session")
def batch_command(checkpoint: Path, batch_input: Path) -> list[str]:
    return [
        "run", "--model", str(checkpoint), "--input", str(batch_input), "--method", "fastv",
        "--keep", "4", "--batch-size", "3", "--max-new-tokens", "4", "--device", "cpu",
    ]  # fmt: skip


@pytest.fixture(scope="session")
def batch_whole(
    batch_command: list[str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[bytes, bytes]:
    """What one process writes."""
    from foveate.cli.main import app

    output = tmp_path_factory.mktemp("whole") / "out.jsonl"
    result = CliRunner().invoke(app, [*batch_command, "--output", str(output)])
    assert result.exit_code == 0, result.output
    return results(output)


def results(output: Path) -> tuple[bytes, bytes]:
    errors = output.with_name(f"{output.name}.errors.jsonl")
    return output.read_bytes(), errors.read_bytes()


@pytest.fixture
def half_done(batch_command: list[str], tmp_path: Path) -> Path:
    """The output of a job that was stopped after two batches, the third one's records torn."""
    from foveate.cli.main import app
    from foveate.jobs.journal import Journal

    output = tmp_path / "out.jsonl"
    real, calls = Journal.append, []

    def stopped(self: Journal, records: Any) -> None:
        real(self, records)
        calls.append(records)
        if len(calls) == 3:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "append", stopped)
        result = CliRunner().invoke(app, [*batch_command, "--output", str(output)])
    assert result.exit_code != 0
    (journal,) = (tmp_path / "out.jsonl.parts").glob("journal-*")
    journal.write_bytes(journal.read_bytes()[:-70])
    assert not output.exists()
    return output
