"""Run by test_run.py: `foveate run` in children that are killed at chosen points, then to the end.

A point is the n-th write, fsync, rename or delete of the child; at a write half of it is written
first. The libraries are loaded once and the children are forked, so a kill costs no start.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from foveate.cli.main import app
from foveate.jobs.batch_job import BatchJob  # noqa: F401  (loaded before the forks)
from foveate.jobs.journal import read_journal
from foveate.models.load import load_vlm  # noqa: F401

CALLS = ("write", "fsync", "replace", "unlink")


def run(command: list[str], output: Path, point: int | None) -> int:
    """Number of calls that a whole run made, or 0 if it was killed."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        count = watch(point)
        with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
            app([*command, "--output", str(output)])
        done = str(count["calls"]).encode()
        REAL["write"](writer, done)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as report:
        said = report.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return 0
    return int(said)


REAL = {name: getattr(os, name) for name in CALLS}


def watch(point: int | None) -> Counter[str]:
    """Count this process's calls, and kill it at one of them."""
    count: Counter[str] = Counter()

    def counted(name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            count["calls"] += 1
            if count["calls"] == point:
                if name == "write":
                    REAL["write"](args[0], bytes(args[1])[: len(args[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return REAL[name](*args, **kwargs)

        return call

    for name in CALLS:
        setattr(os, name, counted(name))
    return count


def records(output: Path) -> list[int]:
    parts = output.with_name(f"{output.name}.parts")
    return [record["line"] for path in parts.glob("journal-*") for _, record in read_journal(path)]


def main(folder: Path, seed: int, command: list[str]) -> None:
    torch.set_num_threads(1)
    draw = random.Random(seed)
    whole = folder / "whole.jsonl"
    calls = run(command, whole, None)
    points = draw.sample(range(1, calls + 1), 10)
    report = []
    for number, point in enumerate(points):
        output = folder / f"killed-{number}.jsonl"
        assert run(command, output, point) == 0, point
        first = records(output)
        second_point = draw.randint(1, max(1, calls - point))
        run(command, output, second_point)  # a shorter run may end before that
        both = records(output)
        run(command, output, None)
        errors = (output.with_name(f"{path.name}.errors.jsonl") for path in (output, whole))
        report.append(
            {
                "points": (point, second_point),
                "same": output.read_bytes() == whole.read_bytes(),
                "same errors": len({path.read_bytes() for path in errors}) == 1,
                "twice": [line for line, n in Counter(both).items() if n > 1],
                "lost": sorted(set(first) - set(both)) if both else [],
                "left": sorted(path.name for path in folder.glob(f"{output.name}.*draft")),
            }
        )
    print(json.dumps({"calls": calls, "runs": report}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
