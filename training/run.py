"""A resumable run of a training script: accelerate, a limit of time, running means, checkpoints.

Started by `torchrun` or `accelerate launch`, several processes on CPUs share every step. The
optimiser and the checkpoints are those of `foveate train`.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor, nn

from foveate.errors import InputError, TrainingError
from foveate.vist.train.checkpoint import (
    Snapshot,
    latest,
    load_optimizer,
    load_weights,
    optimizer_tensors,
    read_snapshot,
    weight_tensors,
    write_snapshot,
)
from foveate.vist.train.optim import OptimConfig, build_optimizer, set_lr

__all__ = ["Run", "trained_weights"]


def trained_weights(folder: Path, name: str, prefix: str = "") -> dict[str, Tensor]:
    """Weights of the newest checkpoint of a run, only those below `prefix` (which is cut off).

    Raises:
        InputError: there is no checkpoint.
    """
    newest = latest(folder / name)
    if newest is None:
        raise InputError(f"{folder} holds no checkpoint of {name}; run that stage first.")
    weights = read_snapshot(newest).weights
    return {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}


class Run:
    """One training, continued from the newest checkpoint in `folder`/`name`, if there is one.

    Writes `folder`/`name`/step-N (the last ones only) and `folder`/`name`.log (JSON lines).

    Args:
        folder, name: see there.
        trainee: its forward pass gives the losses; random draws must depend on the step alone.
        kept: module whose weights the checkpoint holds; the trainee's learning parts are in it.
        muon_lr, adam_lr: step sizes of the matrices of linear maps and of everything else, see
            foveate.vist.train.muon.
        factors: {start of parameter names in `trainee`: factor on both}.
        clip: largest norm of the gradient of what AdamW trains; Muon's steps have their own size.
        state: JSON-ready counters to begin with.
        minutes: limit of this call, in wall-clock time.
        max_steps: limit of the whole run, 0 is none.
        save_every: seconds between checkpoints.
        keep_last: checkpoints that stay.
        kind: "muon", or "adamw" for everything.
        cpu: leave accelerators alone.
        mixed_precision: of accelerate, "no" or "bf16".

    Attributes:
        model: the trainee, as several processes share it.
        state: the counters, "step", "seconds" and "cpu_seconds" among them.
        running: running means by name, part of the state.
        is_fresh: there was no checkpoint.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        trainee: nn.Module,
        kept: nn.Module,
        *,
        muon_lr: float,
        adam_lr: float,
        factors: Mapping[str, float] | None = None,
        clip: float = 1.0,
        state: Mapping[str, Any] | None = None,
        minutes: float = math.inf,
        max_steps: int = 0,
        save_every: float = 120.0,
        keep_last: int = 1,
        kind: Literal["adamw", "muon"] = "muon",
        cpu: bool = True,
        mixed_precision: str = "no",
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.name, self.kept = folder, name, kept
        self.adam_lr, self.clip = adam_lr, clip
        self.minutes, self.max_steps, self.save_every = minutes, max_steps, save_every
        self.keep_last = keep_last
        self.accelerator = Accelerator(
            cpu=cpu,
            mixed_precision=mixed_precision,
            # Some losses, and so some parts, come and go.
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
        )
        config = OptimConfig(kind=kind, muon_factor=muon_lr / adam_lr, beta2=0.98)
        optimizer = build_optimizer(trainee, config, [factors or {}])
        self.model, self.optimizer = self.accelerator.prepare(trainee, optimizer)
        self.state: dict[str, Any] = {"step": 0, "seconds": 0.0, "cpu_seconds": 0.0, "running": {}}
        self.state |= state or {}
        newest = latest(folder / name)
        self.is_fresh = newest is None
        if newest is not None:
            snapshot = read_snapshot(newest)
            load_weights(kept, snapshot.weights)
            load_optimizer(kept, self.optimizer.optimizer, snapshot.optimizer)
            self.state |= snapshot.state
        self.running: dict[str, float] = self.state["running"]
        self.elapsed = 0.0
        self._saved_step = -1
        self._begun = self._saved = time.monotonic()
        self._used = time.process_time()
        self._before = self.state["seconds"], self.state["cpu_seconds"]

    @property
    def step(self) -> int:
        """Steps that were made, over all calls."""
        step: int = self.state["step"]
        return step

    @property
    def draw(self) -> int:
        """Number of the batch that this process draws for the step to come."""
        return self.step * self.accelerator.num_processes + self.accelerator.process_index

    def mean(self, value: float) -> float:
        """Mean of a number over the processes, the same in all of them."""
        if self.accelerator.num_processes == 1:
            return value
        total: Tensor = self.accelerator.reduce(torch.tensor(value, dtype=torch.float64), "mean")
        return total.item()

    def goes_on(self) -> bool:
        """Whether there is another step to make; all processes agree."""
        self.elapsed = self.mean((time.monotonic() - self._begun) / 60)
        return self.elapsed < self.minutes and not 0 < self.max_steps <= self.step

    def scale(self, warmup: int, decay_minutes: float, floor: float) -> float:
        """Factor on the step size: rises over `warmup` steps, falls before the time is over."""
        left = (self.minutes - self.elapsed) / decay_minutes if decay_minutes else 1.0
        return min(1.0, (self.step + 1) / warmup) * max(floor, min(1.0, left))

    def gather(self, loss: Tensor) -> None:
        """Add the gradient of a part of a step's loss, before `learn` is given the last part."""
        with self.accelerator.no_sync(self.model):
            self.accelerator.backward(loss)

    def learn(self, loss: Tensor, scale: float) -> None:
        """One step of the optimiser, its step sizes multiplied by `scale`.

        Raises:
            TrainingError: the loss is not finite; the weights stay as they were.
        """
        value = self.mean(loss.item())
        if not math.isfinite(value):
            raise TrainingError(
                f"step {self.step + 1} of {self.name} has the loss {value}; resume with a lower "
                "muon_lr."
            )
        self.accelerator.backward(loss)
        groups = self.optimizer.param_groups
        others = [p for group in groups if not group.get("muon") for p in group["params"]]
        self.accelerator.clip_grad_norm_(others, self.clip)
        set_lr(self.optimizer, self.adam_lr * scale, 0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.state["step"] += 1

    def note(self, name: str, value: float, rate: float = 0.05) -> None:
        """Move the running mean of `name` towards `value`; the first value counts whole."""
        self.running[name] = (1 - rate) * self.running.get(name, value) + rate * value

    def log(self, **more: float) -> None:
        """Add the counters, the running means and `more` to the log, as one flat line."""
        if not self.accelerator.is_main_process:
            return
        counters = {k: value for k, value in self.state.items() if not isinstance(value, dict)}
        shown = {k: round(v, 5) for k, v in {**self.running, **more}.items()}
        with (self.folder / f"{self.name}.log").open("a") as file:
            file.write(json.dumps({**counters, **shown}) + "\n")

    def keep(self) -> None:
        """Count the time, and write a checkpoint where one is due."""
        now = time.monotonic()
        processes = self.accelerator.num_processes
        self.state["seconds"] = self._before[0] + now - self._begun
        used = (time.process_time() - self._used) * processes
        self.state["cpu_seconds"] = self._before[1] + used
        if now - self._saved > self.save_every:
            self._save()
            self._saved = now

    def close(self) -> None:
        """Write the last checkpoint and leave the other processes."""
        if self._saved_step != self.step:
            self._save()
        self.accelerator.wait_for_everyone()
        self.accelerator.end_training()

    def _save(self) -> None:
        self._saved_step = self.step
        if not self.accelerator.is_main_process:
            return
        snapshot = Snapshot(
            state=self.state,
            weights=weight_tensors(self.kept),
            optimizer=optimizer_tensors(self.kept, self.optimizer.optimizer),
        )
        write_snapshot(self.folder / self.name, snapshot, keep_last=self.keep_last)
