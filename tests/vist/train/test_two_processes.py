"""Two processes under the real launcher train as one does, and one continues what two began."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from foveate.vist.train.build import MadeUpText, tiny_recipe, tiny_vist
from foveate.vist.train.history import read_history
from foveate.vist.train.loop import Trainer
from foveate.vist.train.recipe import load_recipe
from tests.vist.train.tiny import accelerator_for

RECIPE = "vist-smollm2-cpu"
SETTINGS = ("data.context=120", "data.tail=16", "run.micro_batch=2")
STOP = 3  # one step into the last stage, whose PVE has negatives from both processes


def one_process(folder: Path) -> Trainer:
    wanted = tiny_recipe(load_recipe(RECIPE, SETTINGS))
    wanted = dataclasses.replace(wanted, run=dataclasses.replace(wanted.run, micro_batch=4))
    source = MadeUpText()
    return Trainer(
        wanted, tiny_vist(wanted, source), source, folder, accelerator=accelerator_for(wanted)
    )


def test_two_processes_give_the_losses_of_one(tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch",
        "--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no",
        "--dynamo_backend", "no", "--main_process_ip", "127.0.0.1", "--main_process_port", "0",
        "-m", "foveate.cli.main", "train", RECIPE, "--dry-run", "--cpu",
        "--stop-after", str(STOP), "--output", str(tmp_path / "two"),
    ]  # fmt: skip
    for setting in SETTINGS:
        command += ["--set", setting]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "on 2 process(es), cpu" in done.stderr
    one = one_process(tmp_path / "one").run()
    two = read_history(tmp_path / "two")
    assert len(two) == STOP
    # Two processes began, one goes on.
    two = one_process(tmp_path / "two").run(resume=True)
    assert len(one) == len(two) == 4
    for left, right in zip(one, two, strict=True):
        losses = left.keys() & {"loss", "read", "distil", "next_token", "pve", "tail_kl"}
        assert {n: left[n] for n in losses} == pytest.approx(
            {n: right[n] for n in losses}, rel=1e-5, abs=1e-7
        )
