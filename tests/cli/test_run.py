"""`foveate run`: formats, settings, errors; killed, resumed, and under the real launcher."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cli.batch_case import ENVIRONMENT, NUM_GOOD, results
from tests.cli.conftest import Foveate
from tests.cli.vlm_folder import NUM_VISUAL

ROOT = Path(__file__).resolve().parents[2]


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_output_is_the_input_with_answers(
    foveate: Foveate, batch_command: list[str], batch_input: Path, tmp_path: Path
) -> None:
    output = tmp_path / "new" / "out.jsonl"
    result = foveate(*batch_command, "--output", output)
    assert result.stdout.splitlines()[0] == (
        f"23 lines: 20 answered, 3 errors; visual tokens {19 * NUM_VISUAL} -> {19 * 4} (25.0 %)"
    )
    asked = batch_input.read_text().splitlines()
    said = output.read_text().splitlines()
    assert len(said) == NUM_GOOD
    left = iter(asked)
    for line in said:  # in order, and letter by letter what was asked
        stem = line[: line.rindex(', "answer": ')].rstrip()
        assert any(row.rstrip("} ") == stem for row in left), line
        row = json.loads(line)
        has_image = "image" in row
        assert row["tokens"] == (
            {"before": 16, "kept": 4} if has_image else {"before": 0, "kept": 0}
        )
        assert isinstance(row["answer"], str)
    bad = read(tmp_path / "new" / "out.jsonl.errors.jsonl")
    assert [(row["line"], row.get("id")) for row in bad] == [(5, None), (6, 77), (17, None)]
    assert bad[0]["error"].startswith("not JSON (Expecting property name")
    assert bad[1]["error"] == "image 'gone.png' does not exist; check the path."
    assert bad[2]["error"].startswith("has neither of 'question' and 'messages'")


def test_a_finished_output_is_not_done_again(
    foveate: Foveate, batch_command: list[str], batch_whole: Any, tmp_path: Path
) -> None:
    output = tmp_path / "out.jsonl"
    first = foveate(*batch_command, "--output", output)
    made = output.stat().st_mtime_ns
    again = foveate(*batch_command, "--output", output)
    assert "was finished already; delete it to do it again" in again.stderr
    assert again.stdout == first.stdout
    assert output.stat().st_mtime_ns == made
    assert sorted(path.name for path in (tmp_path / "out.jsonl.parts").iterdir()) == [
        "job.json", "model.json", "summary.json",
    ]  # fmt: skip
    refused = foveate(*batch_command, "--output", output, "--keep", "5", ok=False)
    assert refused.exit_code == 2
    assert "job.json is of another method or keep; restore the options" in refused.stderr
    output.unlink()  # who deletes the output may do it with other settings
    foveate(*batch_command, "--output", output, "--keep", "5")
    assert read(output)[0]["tokens"] == {"before": 16, "kept": 5}
    output.unlink()
    foveate(*batch_command, "--output", output)
    assert results(output) == batch_whole


def test_a_torn_journal_is_gone_on_with(
    foveate: Foveate, batch_command: list[str], batch_whole: Any, half_done: Path
) -> None:
    foveate(*batch_command, "--output", half_done)
    assert results(half_done) == batch_whole


def test_another_batch_size_and_errors_file_may_go_on(
    foveate: Foveate, batch_command: list[str], batch_whole: Any, half_done: Path
) -> None:
    errors = half_done.parent / "elsewhere" / "bad.jsonl"
    foveate(*batch_command, "--output", half_done, "--batch-size", "7", "--errors", errors)
    assert (half_done.read_bytes(), errors.read_bytes()) == batch_whole


@pytest.mark.parametrize(
    ("options", "odd"),
    [
        (("--keep", "25%"), "method or keep"),
        (("--method", "tokencarve"), "method or keep"),
        (("--method", "fastv(prune_layer=1)"), "method or keep"),
        (("--max-new-tokens", "5", "--dtype", "float32"), "dtype, max_new_tokens"),
        (("--model", "embedded"), "model"),
    ],
)
def test_parts_of_other_settings_are_refused(
    foveate: Foveate, batch_command: list[str], half_done: Path, options: tuple[str, ...], odd: str
) -> None:
    refused = foveate(*batch_command, "--output", half_done, *options, ok=False)
    assert refused.exit_code == 2
    assert f"job.json is of another {odd}; restore the options" in refused.stderr
    assert not half_done.exists()


def test_parts_without_an_answer_hold_nobody_back(
    foveate: Foveate, batch_command: list[str], batch_whole: Any, tmp_path: Path
) -> None:
    output = tmp_path / "out.jsonl"
    refused = foveate(*batch_command, "--output", output, "--method", "divprune(prune_layer=99)",
                      ok=False)  # fmt: skip
    assert "prune_layer=99 is outside" in refused.stderr
    foveate(*batch_command, "--output", output)  # as the sentence said
    assert results(output) == batch_whole


def test_parts_of_another_input_or_model_are_refused(
    foveate: Foveate, batch_command: list[str], batch_input: Path, broken: Path, half_done: Path
) -> None:
    other = batch_input.with_name("other.jsonl")
    other.write_bytes(batch_input.read_bytes().replace(b"1.5", b"1.6"))
    refused = foveate(*batch_command, "--output", half_done, "--input", other, ok=False)
    assert "job.json is of another input;" in refused.stderr
    model = half_done.with_name("out.jsonl.parts") / "model.json"
    facts = json.loads(model.read_text())
    model.write_text(json.dumps({**facts, "weights": "0" * 16, "torch": "0.1"}))
    refused = foveate(*batch_command, "--output", half_done, ok=False)
    assert "model.json is of another torch, weights; restore the options" in refused.stderr


def test_files_that_are_somebody_elses(
    foveate: Foveate, batch_command: list[str], batch_input: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.jsonl"
    output.write_text("mine")
    refused = foveate(*batch_command, "--output", output, ok=False)
    assert "exists and is not of a job that could go on" in refused.stderr
    assert output.read_text() == "mine"
    assert not (tmp_path / "out.jsonl.parts").exists()
    refused = foveate(*batch_command, "--output", batch_input, ok=False)
    assert "name three files" in refused.stderr


def test_two_runs_at_once_are_refused(
    foveate: Foveate, batch_command: list[str], batch_whole: Any, half_done: Path
) -> None:
    from foveate.jobs.journal import Journal

    with Journal(half_done.with_name("out.jsonl.parts") / "journal-00000.jsonl"):
        refused = foveate(*batch_command, "--output", half_done, ok=False)
        assert "is being written by another run" in refused.stderr
    foveate(*batch_command, "--output", half_done)
    assert results(half_done) == batch_whole


def test_ten_random_kills(batch_command: list[str], batch_whole: Any, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.cli.batch_killer", str(tmp_path), "20", *batch_command],
        capture_output=True, text=True, env=ENVIRONMENT, cwd=ROOT, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout)
    assert results(tmp_path / "whole.jsonl") == batch_whole
    assert len(report["runs"]) == 10
    for run in report["runs"]:
        assert run["same"], run
        assert run["same errors"], run
        assert [run["twice"], run["lost"], run["left"]] == [[], [], []], run


def test_a_killed_program_goes_on(
    foveate: Foveate, batch_command: list[str], batch_whole: Any, tmp_path: Path
) -> None:
    """The real program, killed by the system as soon as it has written something."""
    output = tmp_path / "out.jsonl"
    arguments = [*batch_command, "--output", str(output)]
    program = subprocess.Popen([sys.executable, "-m", "foveate", *arguments], env=ENVIRONMENT)
    journal = tmp_path / "out.jsonl.parts" / "journal-00000.jsonl"
    limit = time.monotonic() + 120
    while time.monotonic() < limit and not (journal.exists() and journal.stat().st_size):
        assert program.poll() is None
        time.sleep(0.002)
    program.send_signal(signal.SIGKILL)
    assert program.wait() == -signal.SIGKILL
    assert not output.exists()
    foveate(*arguments)
    assert results(output) == batch_whole


def launch(batch_command: list[str], output: Path) -> subprocess.CompletedProcess[str]:
    launcher = [
        sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch",
        "--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no",
        "--dynamo_backend", "no", "--main_process_ip", "127.0.0.1", "--main_process_port", "0",
        "-m", "foveate", *batch_command, "--output", str(output),
    ]  # fmt: skip
    return subprocess.run(launcher, capture_output=True, text=True, env=ENVIRONMENT, timeout=300)


def test_two_processes_of_the_launcher_end_what_one_began(
    batch_command: list[str], batch_whole: Any, half_done: Path
) -> None:
    done = launch(batch_command, half_done)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("23 lines: 20 answered") == 1  # only the first one talks
    assert results(half_done) == batch_whole
