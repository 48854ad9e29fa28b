"""`foveate compare` as a run: killed and resumed, in shares, under the real launcher."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from foveate.carve.answerer import Answerer, Said
from foveate.carve.compare.answering import Answering
from foveate.cli.compare_run import PARTS
from foveate.models.generation import Answer
from tests.cli.conftest import Foveate

OPTIONS = (
    "--data", "easy-vqa", "--limit", "70", "--rounds", "0", "--methods", "fastv",
    "--keep", "50%", "--batch-size", "8", "--max-new-tokens", "2",
)  # fmt: skip


@pytest.fixture(scope="module")
def whole(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What one process writes."""
    from typer.testing import CliRunner

    from foveate.cli.main import app

    output = tmp_path_factory.mktemp("whole")
    command = ["compare", "--model", str(checkpoint), *OPTIONS, "--output", str(output)]
    result = CliRunner().invoke(app, [*command, "--answers"])
    assert result.exit_code == 0, result.output
    return results(output)


def results(output: Path) -> dict[str, Any]:
    return {
        "rows": json.loads((output / "compare.json").read_text())["rows"],
        "answers": (output / "answers.jsonl").read_text(),
    }


def test_shares_then_the_table(
    foveate: Foveate, checkpoint: Path, whole: dict[str, str], tmp_path: Path
) -> None:
    command = ("compare", "--model", checkpoint, *OPTIONS, "--output", tmp_path, "--answers")
    for share in ("1/2", "0/2"):
        done = foveate(*command, "--share", share)
        assert "run the same with --resume when all are" in done.stderr
        assert not (tmp_path / "compare.json").exists()
    assert len(list((tmp_path / PARTS).glob("fastv-*/*.json"))) == 2
    foveate(*command, "--resume")
    assert results(tmp_path) == whole


def test_a_killed_run_goes_on(
    foveate: Foveate,
    checkpoint: Path,
    whole: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = Answering.answer

    def killed(self: Answering, chunk: Any, arms: Any) -> Any:
        if chunk.start:
            raise SystemExit(9)
        return real(self, chunk, arms)

    command = ("compare", "--model", checkpoint, *OPTIONS, "--output", tmp_path, "--answers")
    monkeypatch.setattr(Answering, "answer", killed)
    foveate(*command, ok=False)
    monkeypatch.setattr(Answering, "answer", real)
    refused = foveate(*command, ok=False)
    assert refused.exit_code == 2
    assert "holds an unfinished run; go on with --resume" in refused.stderr
    refused = foveate(*command, "--resume", "--batch-size", "4", ok=False)
    assert "was made with another batch_size; restore the options" in refused.stderr
    foveate(*command, "--resume")
    assert results(tmp_path) == whole
    # A finished run may be run anew.
    made = (tmp_path / PARTS / "manifest.json").stat().st_mtime_ns
    foveate(*command)
    assert results(tmp_path) == whole
    assert (tmp_path / PARTS / "manifest.json").stat().st_mtime_ns > made


def test_two_processes_of_the_launcher(
    checkpoint: Path, whole: dict[str, str], tmp_path: Path
) -> None:
    command = [
        sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch",
        "--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no",
        "--dynamo_backend", "no", "--main_process_ip", "127.0.0.1", "--main_process_port", "0",
        "-m", "foveate", "compare", "--model", str(checkpoint), *OPTIONS, "--device", "cpu",
        "--output", str(tmp_path), "--answers",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("easy-vqa: 70 questions") == 1  # only the first one talks
    assert results(tmp_path) == whole


@pytest.mark.parametrize(("share", "words"), [("2/2", "does not exist"), ("x", "is no share")])
def test_shares_that_cannot_be(
    foveate: Foveate, checkpoint: Path, tmp_path: Path, share: str, words: str
) -> None:
    result = foveate(
        "compare", "--model", checkpoint, *OPTIONS, "--output", tmp_path, "--share", share, ok=False
    )
    assert words in result.stderr


def test_stacks_and_settings_are_methods(
    foveate: Foveate, checkpoint: Path, tmp_path: Path
) -> None:
    result = foveate(
        "compare", "--model", checkpoint, "--limit", "2", "--rounds", "0", "--keep", "50%",
        "--methods", "tokencarve(attention_weight=0.3,merge_fraction=0)", "tokencarve",
        "--against", "tokencarve", "--output", tmp_path, "--json",
    )  # fmt: skip
    rows = {row["method"]: row for row in json.loads(result.stdout)["rows"]}
    described = rows["tokencarve(attention_weight=0.3,merge_fraction=0)"]
    assert described["against"] is not None
    assert rows["tokencarve"]["against"] is None
    assert rows["full"]["against"] is None
    assert rows["full"]["average_tokens"] == 16
    assert described["average_tokens"] == 12  # 16, 16, 8, 8
    page = (tmp_path / "compare.md").read_text()
    assert "| minus tokencarve |" in page


@pytest.mark.filterwarnings("ignore:Data has no positive values")  # nothing ran, nothing is kept
def test_answers_stay_small(
    foveate: Foveate, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sixty arms cost sixty characters a question."""
    said = Said(rows=[Answer(text="red", ids=(5,), seconds=0.0)] * 2, reports=())
    monkeypatch.setattr(Answerer, "answer", lambda self, inputs, **options: said)
    budgets = [str(n) for n in range(1, 16)]
    foveate(
        "compare", "--model", checkpoint, "--data", "easy-vqa", "--limit", "2", "--rounds", "0",
        "--batch-size", "2", "--methods", "fastv", "divprune", "--keep", *budgets,
        "--output", tmp_path,
    )  # fmt: skip
    head, *records = (tmp_path / "answers.jsonl").read_text().splitlines()
    assert len(json.loads(head)["arms"]) == 62
    assert max(map(len, records)) < 300  # 2,000 of them are 0.6 MB


def test_data_that_datasets_reads(foveate: Foveate, checkpoint: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    pictures = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    rows = {"picture": pictures, "question": ["what?"] * 2, "label": ["red", "blue"]}
    features = datasets.Features(
        picture=datasets.Image(), question=datasets.Value("string"), label=datasets.Value("string")
    )
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "saved")
    result = foveate(
        "compare", "--model", checkpoint, "--data", f"hub:{tmp_path / 'saved'}", "--rounds", "0",
        "--columns", "image=picture,answers=label", "--output", tmp_path / "out", "--json",
    )  # fmt: skip
    manifest = json.loads(result.stdout)["manifest"]
    assert (manifest["num_questions"], manifest["num_images"]) == (2, 2)
    assert manifest["data"] == "hub:saved"
    for file in (tmp_path / "out").rglob("*.json*"):
        assert str(tmp_path) not in file.read_text(), file
