"""Step sizes and parameter groups; the history and its picture."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from foveate.draw.loss_plot import draw_losses, smoothed
from foveate.errors import ConfigError, InputError
from foveate.vist.train.history import History, read_history
from foveate.vist.train.optim import OptimConfig, build_optimizer, lr_scale, set_lr


def test_warm_up_and_cosine_by_hand() -> None:
    config = OptimConfig(warmup=0.2, floor=0.1)
    scales = [lr_scale(step, 10, config) for step in range(10)]
    assert scales[:3] == pytest.approx([0.5, 1.0, 1.0])
    assert scales[6] == pytest.approx(0.55)  # half way down to 0.1
    assert scales == sorted(scales[:2]) + sorted(scales[2:], reverse=True)
    assert lr_scale(10, 10, config) == pytest.approx(0.1)
    assert lr_scale(0, 1, OptimConfig(warmup=0.0)) == 1.0


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
        self.latents = nn.Parameter(torch.zeros(3, 2))


def test_groups_by_name_stage_and_decay() -> None:
    net = Net()
    factors = [{}, {"parts.a": 0.5, "parts.a.bias": 2.0}]
    optimizer = build_optimizer(net, OptimConfig(weight_decay=0.1), factors)
    set_lr(optimizer, 1.0, stage=1)
    found = {
        name: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for name, parameter in net.named_parameters()
        if any(parameter is p for p in group["params"])
    }
    assert found == {
        "parts.a.weight": (0.5, 0.1),
        "parts.a.bias": (2.0, 0.0),
        "parts.b.weight": (1.0, 0.1),
        "parts.b.bias": (1.0, 0.0),
        "latents": (1.0, 0.0),
    }
    set_lr(optimizer, 3.0, stage=0)
    assert {group["lr"] for group in optimizer.param_groups} == {3.0}


def test_factors_on_nothing_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"lr_factors names 'parts\.c'.* latents, parts\.a"):
        build_optimizer(Net(), OptimConfig(), [{"parts.c": 1.0}])


# --- history ---


def test_smoothing_keeps_a_constant() -> None:
    assert smoothed([2.0, 2.0, 2.0]) == pytest.approx([2.0, 2.0, 2.0])
    assert smoothed([]) == []


def test_a_continued_history_drops_what_was_lost(tmp_path: Path) -> None:
    first = History(tmp_path, title="t", first_step=0, plot_every=100, tensorboard=False)
    for step in (1, 2, 3):
        first.add({"step": step, "stage": "a", "loss": 1.0 / step, "read": 1.0 / step})
    with (tmp_path / "history.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    assert [r["step"] for r in read_history(tmp_path)] == [1, 2, 3]
    second = History(tmp_path, title="t", first_step=2, plot_every=100, tensorboard=False)
    second.add({"step": 3, "stage": "b", "loss": 0.5})
    second.close()
    lines = (tmp_path / "history.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]
    assert json.loads(lines[-1])["stage"] == "b"
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_a_damaged_line_of_a_history_is_named_and_nothing_is_lost(tmp_path: Path) -> None:
    file = tmp_path / "history.jsonl"
    file.write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(InputError, match=r"line 2 of .*history\.jsonl is damaged"):
        History(tmp_path, title="t", first_step=3, plot_every=100, tensorboard=False)
    assert file.read_text().count("\n") == 3


def test_a_run_without_parts_draws_its_loss(tmp_path: Path) -> None:
    draw_losses([{"step": 1, "loss": 2.0}], title="t", path=tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 1000


def test_tensorboard_must_be_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(InputError, match="pip install tensorboard"):
        History(tmp_path, title="t", first_step=0, plot_every=1, tensorboard=True)


def test_tensorboard_gets_every_number(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    history = History(tmp_path, title="t", first_step=0, plot_every=100, tensorboard=True)
    history.add({"step": 1, "stage": "a", "loss": 1.5})
    history.close()
    (file,) = (tmp_path / "tensorboard").iterdir()
    assert b"loss" in file.read_bytes()
