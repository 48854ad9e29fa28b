"""`foveate run --engine vllm` with the embedded model: the answers of transformers, resumed too."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from foveate.tasks.easy_vqa import easy_vqa_questions
from tests.vllm.engine.server import ENVIRONMENT

QUIET = {**os.environ, **ENVIRONMENT, "RAY_USAGE_STATS_ENABLED": "0"}
SECONDS = 900
VLLM = ("--engine", "vllm", "--engine-options", '{"max_model_len": 1024}')
RAY = (*VLLM, "--backend", "ray")
# As the plugin cuts in LLaVA models.
TRANSFORMERS = ("--method", "tokencarve(where='encoder',positions='renumbered')")
NUM_LINES, NUM_IMAGES = 24, 22


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Questions on images of the embedded model's size; text alone, two images, and bad lines."""
    folder = tmp_path_factory.mktemp("questions")
    every = list(easy_vqa_questions(split="test", canvas=True))
    rows: list[dict[str, Any]] = []
    for i, asked in enumerate(every[:: len(every) // NUM_LINES][:NUM_LINES]):
        asked.image.save(folder / f"{i}.png")
        rows.append({"id": i, "image": f"{i}.png", "question": asked.question})
    rows[3] = {"id": 3, "question": "what color is the circle?"}
    rows[5] = {"id": 5, "image": "gone.png", "question": "what?"}
    rows[7] = {"id": 7, "images": ["7.png", "8.png"], "question": "what color is the shape?"}
    rows[9] = {"id": 9, "image": "9.png", "question": "what? " * 2000}
    path = folder / "in.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def command(questions: Path, output: Path, options: Sequence[str]) -> list[str]:
    return [
        sys.executable, "-m", "foveate", "run", "--input", str(questions), "--output", str(output),
        "--batch-size", "2", "--max-new-tokens", "8", *options,
    ]  # fmt: skip


def run(questions: Path, output: Path, *options: str) -> str:
    done = subprocess.run(
        command(questions, output, options), capture_output=True, text=True, env=QUIET,
        timeout=SECONDS,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def whole(questions: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """What one engine writes, and says."""
    output = tmp_path_factory.mktemp("whole") / "out.jsonl"
    return output, run(questions, output, *VLLM)


def read(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.read_text().splitlines()]


def results(output: Path) -> tuple[bytes, bytes]:
    errors = output.with_name(f"{output.name}.errors.jsonl")
    return output.read_bytes(), errors.read_bytes()


def test_answers_are_those_of_transformers(
    questions: Path, whole: tuple[Path, str], tmp_path: Path
) -> None:
    output, said = whole
    other = tmp_path / "out.jsonl"
    assert said.splitlines()[0] == run(questions, other, *TRANSFORMERS).splitlines()[0]
    assert said.startswith(
        f"{NUM_LINES} lines: {NUM_LINES - 2} answered, 2 errors; "
        f"visual tokens {NUM_IMAGES * 196} -> {NUM_IMAGES * 49} (25.0 %)"
    )
    assert read(output) == read(other)
    bad, bad_other = (read(path.with_name(f"{path.name}.errors.jsonl")) for path in (output, other))
    assert bad[0] == bad_other[0]
    assert [row["id"] for row in bad] == [5, 9]
    assert "1024" in bad[1]["error"]


def journal(output: Path) -> Path:
    return output.with_name(f"{output.name}.parts") / "journal-00000.jsonl"


def started(arguments: list[str], output: Path) -> subprocess.Popen[str]:
    """A job that has written something, and is not done."""
    program = subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=QUIET
    )
    end = time.monotonic() + SECONDS
    while not (journal(output).exists() and journal(output).stat().st_size):
        assert program.poll() is None, program.communicate()[1][-4000:]
        assert time.monotonic() < end
        time.sleep(0.002)
    return program


def descendants(pid: int, name: str) -> list[int]:
    """Processes of this machine that are called so and come from one."""
    parents: dict[int, tuple[int, str]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            head, tail = stat.read_text().rsplit(")", 1)
            title = (stat.parent / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        parents[int(head.split()[0])] = (int(tail.split()[1]), title)

    def is_below(one: int) -> bool:
        while one in parents and one != pid:
            one = parents[one][0]
        return one == pid

    return [one for one, (_, title) in parents.items() if name in title and is_below(one)]


def test_two_workers_of_ray_one_killed(
    questions: Path, whole: tuple[Path, str], tmp_path: Path
) -> None:
    """Ray starts it anew, and its batch is answered again."""
    pytest.importorskip("ray")
    output = tmp_path / "out.jsonl"
    program = started(command(questions, output, (*RAY, "--workers", "2")), output)
    workers = descendants(program.pid, "_MapWorker") or descendants(program.pid, "MapWorker")
    assert len(workers) == 2
    os.kill(workers[0], signal.SIGKILL)
    _, err = program.communicate(timeout=SECONDS)
    assert program.returncode == 0, err[-4000:]
    assert results(output) == results(whole[0])


def test_a_killed_driver_is_gone_on_with(
    questions: Path, whole: tuple[Path, str], tmp_path: Path
) -> None:
    """What two workers had answered is kept; one engine without Ray ends it."""
    pytest.importorskip("ray")
    output = tmp_path / "out.jsonl"
    program = started(command(questions, output, (*RAY, "--workers", "2")), output)
    program.send_signal(signal.SIGKILL)
    program.communicate()
    assert not output.exists()
    kept = journal(output).read_bytes()
    run(questions, output, *VLLM)
    assert kept
    assert results(output) == results(whole[0])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--engine-options", "[]"), "--engine-options '[]' is no JSON object"),
        (("--engine-options", '{"model": "x"}'), "has 'model'; leave it out: use --model"),
        (("--engine-options", '{"no_such": 1}'), "vLLM cannot start vlm"),
        (("--method", "fastv"), "cuts|reads|between decoder layers"),
        (("--keep", "information=95%"), "vLLM reserves a place"),
        (("--device", "cpu"), "--device cpu is of --engine transformers"),
        (("--model", "nowhere/at/all"), "model folder|cannot start"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    questions: Path, tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    done = subprocess.run(
        command(questions, tmp_path / "out.jsonl", (*VLLM, *options)), capture_output=True,
        text=True, env=QUIET, timeout=SECONDS,
    )  # fmt: skip
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert any(word in last for word in words.split("|")), done.stderr[-3000:]
    assert "Traceback" not in done.stderr
