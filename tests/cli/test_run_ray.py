"""`foveate run --backend ray`: the same bytes as one process, on the real Ray (`make test-ray`).

Every run is a program of its own: Ray looks for this machine's address, which tests may not.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cli.batch_case import ENVIRONMENT, results
from tests.cli.conftest import Foveate

QUIET = {**ENVIRONMENT, "RAY_USAGE_STATS_ENABLED": "0"}
RAY = ("--backend", "ray")


@pytest.fixture
def ray() -> None:
    pytest.importorskip("ray", reason="ray is not installed; make test-ray has it")


def start(command: list[str], output: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "foveate", *command, "--output", str(output), *RAY, *options],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=QUIET,
    )  # fmt: skip


@pytest.mark.usefixtures("ray")
def test_two_actors_end_what_one_process_began(
    batch_command: list[str], batch_whole: Any, half_done: Path
) -> None:
    program = start(batch_command, half_done, "--workers", "2")
    out, err = program.communicate(timeout=300)
    assert program.returncode == 0, err[-3000:]
    assert out.startswith("23 lines: 20 answered, 3 errors")
    assert results(half_done) == batch_whole


@pytest.mark.usefixtures("ray")
def test_a_killed_driver_goes_on(
    foveate: Foveate, batch_command: list[str], batch_whole: Any, tmp_path: Path
) -> None:
    """What the actors had answered is kept, and one process of transformers ends it."""
    output = tmp_path / "out.jsonl"
    program = start(batch_command, output)
    journal = tmp_path / "out.jsonl.parts" / "journal-00000.jsonl"
    limit = time.monotonic() + 200
    while time.monotonic() < limit and not (journal.exists() and journal.stat().st_size):
        assert program.poll() is None, program.communicate()
        time.sleep(0.002)
    program.send_signal(signal.SIGKILL)
    program.communicate()
    assert not output.exists()
    foveate(*batch_command, "--output", output)
    assert results(output) == batch_whole


@pytest.mark.usefixtures("ray")
def test_an_actor_that_cannot_load_its_model_says_why(
    batch_command: list[str], broken: Path, tmp_path: Path
) -> None:
    (broken / "model.safetensors").unlink()
    program = start(batch_command, tmp_path / "out.jsonl", "--model", str(broken))
    out, err = program.communicate(timeout=300)
    assert program.returncode == 2
    assert out == ""
    assert err.splitlines()[-1].startswith("foveate: folder ")
    assert "has no *.safetensors file" in err
    assert "Traceback" not in err


def test_without_ray(
    foveate: Foveate, batch_command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    output = tmp_path / "out.jsonl"
    refused = foveate(*batch_command, "--output", output, *RAY, ok=False)
    assert refused.exit_code == 2
    assert "--backend ray needs the package ray; install it with" in refused.stderr
    assert not output.with_name("out.jsonl.parts").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((*RAY, "--workers", "0"), "workers=0 is below 1; use at least 1."),
        (("--workers", "2"), "--workers 2 is of --backend ray; for several processes"),
    ],
)
def test_workers_that_cannot_be(
    foveate: Foveate, batch_command: list[str], tmp_path: Path, options: Any, words: str
) -> None:
    refused = foveate(*batch_command, "--output", tmp_path / "out.jsonl", *options, ok=False)
    assert words in refused.stderr


@pytest.mark.usefixtures("ray")
def test_a_cluster_that_is_not_there(batch_command: list[str], tmp_path: Path) -> None:
    program = subprocess.run(
        [sys.executable, "-m", "foveate", *batch_command, "--output", str(tmp_path / "out.jsonl"),
         *RAY], capture_output=True, text=True, timeout=300,
        env={**QUIET, "RAY_ADDRESS": "nonsense"},
    )  # fmt: skip
    assert program.returncode == 2
    assert "foveate: Ray cannot start (" in program.stderr
