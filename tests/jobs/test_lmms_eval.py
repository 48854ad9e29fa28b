"""The real lmms-eval runs the plugin on a local task: same answers, same accuracy as foveate's own.

`make test-lmms` builds the environment for it; elsewhere these tests skip.
"""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.lmms_eval_task import MAX_NEW_TOKENS, options_for, write_task
from foveate.carve.compare.comparison import CompareSettings
from foveate.carve.compare.run import compare
from foveate.core.budget import Budget
from foveate.models.load import load_vlm
from foveate.tasks.named import load_questions
from foveate.tasks.question import Question

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("lmms_eval") is None,
    reason="lmms-eval is not installed: make test-lmms",
)

NUM_QUESTIONS = 60
BATCH = 16
KEEP = 49
METHODS = ("tokencarve", "divprune", "random", "uniform")


@pytest.fixture(scope="module")
def questions() -> list[Question]:
    return load_questions("reading", limit=NUM_QUESTIONS)


@pytest.fixture(scope="module")
def task_folder(tmp_path_factory: pytest.TempPathFactory, questions: list[Question]) -> Path:
    folder = tmp_path_factory.mktemp("task")
    write_task(questions, "reading", folder)
    return folder


Harness = Callable[..., tuple[dict[str, Any], dict[str, list[dict[str, Any]]], str]]


@pytest.fixture
def harness(task_folder: Path, tmp_path: Path) -> Harness:
    """Runs `python -m lmms_eval`; returns its results, its samples by task, and what it printed."""

    def run(
        *options: str,
        tasks: str = "foveate_reading",
        launcher: tuple[str, ...] = ("-m",),
        environment: dict[str, str] | None = None,
        **settings: Any,
    ) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]], str]:
        given = {"pretrained": "embedded", "batch_size": BATCH, "device": "cpu", **settings}
        out = tmp_path / "out"
        command = [
            sys.executable, *launcher, "lmms_eval", "--model", "foveate_hf",
            "--model_args", ",".join(f"{key}={value}" for key, value in given.items()),
            "--include_path", str(task_folder), "--tasks", tasks,
            "--output_path", str(out), "--log_samples", *options,
        ]  # fmt: skip
        offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf"), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=900,
            env={**os.environ, **offline, **(environment or {})},
        )
        said = done.stdout + done.stderr
        files = sorted(out.rglob("*_results.json"))
        results = json.loads(files[-1].read_text()) if files else {}
        samples = {}
        for file in out.rglob("*_samples_*.jsonl"):
            rows = [json.loads(line) for line in file.read_text().splitlines()]
            samples[file.stem.split("_samples_")[1]] = sorted(rows, key=lambda row: row["doc_id"])
        return results, samples, said

    return run


@pytest.fixture(scope="module")
def own(questions: list[Question]) -> dict[str, tuple[float, list[str]]]:
    """{method: (accuracy, answers)} of foveate's own comparison on the same questions."""
    settings = CompareSettings(
        methods=METHODS,
        budgets=(Budget(keep_tokens=KEEP),),
        batch_size=BATCH,
        max_new_tokens=MAX_NEW_TOKENS,
        rounds=0,
        resamples=10,
    )
    comparison = compare(load_vlm("embedded"), questions, settings)
    return {row.method: (row.accuracy.value, list(row.answers)) for row in comparison.rows}


@pytest.mark.parametrize("method", ["noop", *METHODS])
def test_the_harness_agrees_with_foveates_own_comparison(
    method: str, harness: Harness, own: dict[str, tuple[float, list[str]]]
) -> None:
    budget = {} if method == "noop" else {"keep_tokens": KEEP}
    results, samples, said = harness(method=method, **budget)
    assert results, said
    accuracy, answers = own["full" if method == "noop" else method]
    told = [row["filtered_resps"] for row in samples["foveate_reading"]]
    assert told == answers
    assert results["results"]["foveate_reading"]["exact_match,none"] == pytest.approx(accuracy)
    kept = 196 if method == "noop" else KEEP
    assert f"visual tokens: {60 * 196} -> {60 * kept} " in said
    assert results["throughput"]["avg_visual_tokens_after"] == kept


def test_answer_options_go_to_the_likeliest(harness: Harness, questions: list[Question]) -> None:
    results, samples, said = harness(
        "--force_simple", tasks="foveate_reading_options", method="tokencarve", keep_tokens=25
    )
    assert results, said
    every = sorted({question.answers[0] for question in questions})
    right = 0
    for row, question in zip(samples["foveate_reading_options"], questions, strict=True):
        losses = [float(loss) for loss, _ in row["filtered_resps"]]
        options = options_for(question, every)
        right += options[losses.index(min(losses))] == question.answers[0]
    accuracy = results["results"]["foveate_reading_options"]["acc,none"]
    assert accuracy == pytest.approx(right / len(questions))
    assert 0.5 < accuracy < 1  # one in four by chance


def test_two_processes_answer_as_one(
    harness: Harness, own: dict[str, tuple[float, list[str]]]
) -> None:
    """An odd number of questions, so that lmms-eval pads the shorter share."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    results, samples, said = harness(
        "--limit", "31",
        launcher=("-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={port}",
                  "-m"),
        environment={"ACCELERATE_USE_CPU": "true"},
        method="tokencarve", keep_tokens=KEEP, device="auto",
    )  # fmt: skip
    assert results, said
    told = [row["filtered_resps"] for row in samples["foveate_reading"]]
    assert told == own["tokencarve"][1][:31]
    assert "rank 1: tokencarve" in said


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "tokencarve", "keep_token": 4}, "got keep_token=4, which is no setting here"),
        ({"method": "tokencarve", "keep_tokens": 999}, "keep_tokens=999 exceeds the 196 visual"),
        ({"method": "carve", "keep_tokens": 4}, "unknown method 'carve'; choose one of"),
    ],
)
def test_a_wrong_setting_is_named(settings: dict[str, Any], message: str, harness: Harness) -> None:
    results, _, said = harness("--limit", "2", **settings)
    assert not results
    assert message in " ".join(said.split())


def test_options_need_the_simple_interface(harness: Harness) -> None:
    results, _, said = harness("--limit", "2", tasks="foveate_reading_options", method="noop")
    assert not results
    assert "Currently messages is used for generation only" in said
