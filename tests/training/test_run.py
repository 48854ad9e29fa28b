"""A run of a training script: processes share a step, time ends, a loss may be no number."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from foveate.errors import InputError, TrainingError
from training.run import Run, trained_weights

STEPS = 3


class Trainee(nn.Module):
    """A matrix, a vector, and a part that only some steps use."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.map, self.norm, self.rare = nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor, rare: bool) -> torch.Tensor:
        h = self.norm(self.map(x))
        return (self.rare(h) if rare else h).cos().mean()


def rows(number: int) -> torch.Tensor:
    return torch.randn(5, 4, generator=torch.Generator().manual_seed(number))


def train(folder: Path, at_once: int, steps: int = STEPS) -> Run:
    """`at_once` batches a step in each process."""
    trainee = Trainee()
    run = Run(folder, "tiny", trainee, trainee, muon_lr=0.01, adam_lr=0.002, max_steps=steps)
    while run.goes_on():
        x = torch.cat([rows(at_once * run.draw + i) for i in range(at_once)])
        loss = run.model(x, run.step % 2 == 1)
        run.learn(loss, run.scale(2, 0.0, floor=0.1))
        run.note("loss", loss.item())
        run.log()
        run.keep()
    run.close()
    return run


def test_two_processes_train_as_one_and_one_goes_on(tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch",
        "--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no",
        "--dynamo_backend", "no", "--main_process_ip", "127.0.0.1", "--main_process_port", "0",
        __file__, str(tmp_path / "two"),
    ]  # fmt: skip
    root = str(Path(__file__).resolve().parents[2])
    environment = {
        **os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": root
    }  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    train(tmp_path / "one", at_once=2)
    for _ in range(2):
        one, two = (trained_weights(tmp_path / name, "tiny") for name in ("one", "two"))
        assert one.keys() == two.keys()
        for name in one:
            torch.testing.assert_close(one[name], two[name], atol=1e-6, rtol=1e-5)
        for name in ("one", "two"):  # one process continues what two began
            train(tmp_path / name, at_once=2, steps=STEPS + 2)
    log = [json.loads(line) for line in (tmp_path / "two" / "tiny.log").read_text().splitlines()]
    assert [line["step"] for line in log] == [1, 2, 3, 4, 5]


def test_a_loss_that_is_no_number_changes_nothing(tmp_path: Path) -> None:
    trainee = Trainee()
    before = {name: value.clone() for name, value in trainee.state_dict().items()}
    run = Run(tmp_path, "tiny", trainee, trainee, muon_lr=0.01, adam_lr=0.002)
    with pytest.raises(TrainingError, match="step 1 of tiny has the loss nan; resume with a lower"):
        run.learn(run.model(rows(0) * torch.nan, False), 1.0)
    assert all(torch.equal(before[name], value) for name, value in trainee.state_dict().items())
    assert run.step == 0


def test_a_run_stops_when_its_time_is_over(tmp_path: Path) -> None:
    trainee = Trainee()
    run = Run(tmp_path, "tiny", trainee, trainee, muon_lr=0.01, adam_lr=0.002, minutes=0.0)
    assert run.is_fresh
    assert not run.goes_on()


def test_weights_of_no_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no checkpoint of vision; run that stage first"):
        trained_weights(tmp_path, "vision")


if __name__ == "__main__":
    train(Path(sys.argv[1]), at_once=1)
