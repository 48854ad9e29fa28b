"""Checkpoints of a run: safetensors and JSON, written whole or not at all, resumed exactly.

Not accelerate's own `save_state`, which writes optimiser, scaler and generators by `torch.save` (as
of accelerate 1.15), and so is read by unpickling; foveate loads safetensors only. Nor could it be
continued by another number of processes: it keeps the optimiser's state by position, not by name.
"""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from foveate.errors import InputError
from foveate.files import make_folder, replacing_folder

__all__ = [
    "Snapshot",
    "latest",
    "load_optimizer",
    "load_weights",
    "optimizer_tensors",
    "read_snapshot",
    "restore_rng",
    "rng_state",
    "weight_tensors",
    "write_snapshot",
]

STATE = "state.json"
PARTS = ("weights", "optimizer", "counts")


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A run between two steps.

    Args:
        state: JSON-ready: the step, and what else a run counts on (positions of the data,
            generators, scaler, recipe).
        weights, optimizer: named tensors on the CPU.
        counts: of tokens, where a run counts them.
    """

    state: Mapping[str, Any]
    weights: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    counts: Mapping[str, Tensor] = field(default_factory=dict)


def write_snapshot(folder: Path, snapshot: Snapshot, keep_last: int) -> Path:
    """Write `folder`/step-N and delete all but the last `keep_last`.

    The folder appears under its name when it is complete; an interrupted write leaves a folder that
    starts with a dot, which the next one removes.
    """
    make_folder(folder)
    for left in folder.glob(".step-*"):
        shutil.rmtree(left, ignore_errors=True)
    target = folder / f"step-{snapshot.state['step']:08d}"
    try:
        with replacing_folder(target) as work:
            for part in PARTS:
                tensors = {k: t.contiguous() for k, t in getattr(snapshot, part).items()}
                save_file(tensors, str(work / f"{part}.safetensors"))
            state = json.dumps(snapshot.state, indent=1) + "\n"
            (work / STATE).write_text(state, encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"checkpoint {target} cannot be written ({error}); make room, and go on with --resume."
        ) from error
    for old in _complete(folder)[:-keep_last]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def latest(folder: Path) -> Path | None:
    """The newest complete checkpoint below `folder`, None if there is none."""
    found = _complete(folder)
    return found[-1] if found else None


def read_snapshot(path: Path) -> Snapshot:
    """Read one checkpoint.

    Raises:
        InputError: a file is missing or damaged.
    """
    try:
        state = json.loads((path / STATE).read_text(encoding="utf-8"))
        parts = {part: load_file(str(path / f"{part}.safetensors")) for part in PARTS}
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(
            f"checkpoint {path} cannot be read ({error}); delete it, and the one before is used."
        ) from error
    return Snapshot(state=state, **parts)


def _complete(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("step-*") if re.fullmatch(r"step-\d{8}", p.name))


def weight_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Whole weights on the CPU; every process must call it where they are sharded."""
    return {name: _whole(value) for name, value in module.state_dict().items()}


def load_weights(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put whole weights back in place, sharded as the module is.

    Raises:
        InputError: names or shapes are others.
    """
    own = module.state_dict()
    if own.keys() != tensors.keys():
        odd = sorted(own.keys() ^ tensors.keys())
        raise InputError(f"the checkpoint and the run differ in {len(odd)} weights, first {odd[0]}")
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(_like(value, tensors[name]))


def optimizer_tensors(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state by parameter name; every process must call it."""
    return {
        f"{name}/{key}": _whole(torch.as_tensor(value))
        for name, parameter in module.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer(
    module: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]
) -> None:
    """The inverse of `optimizer_tensors`."""
    named = dict(module.named_parameters())
    optimizer.state.clear()
    for full, value in tensors.items():
        name, _, key = full.rpartition("/")
        parameter = named[name]
        # AdamW keeps its count of steps on the CPU.
        placed = value.clone() if value.ndim == 0 else _like(parameter, value)
        optimizer.state[parameter][key] = placed


def _whole(value: Tensor) -> Tensor:
    value = value.detach()
    if isinstance(value, DTensor):
        value = value.full_tensor()
    return value.cpu().clone()


def _like(model: Tensor, value: Tensor) -> Tensor:
    value = value.to(model.device)
    if isinstance(model, DTensor):
        return distribute_tensor(value, model.device_mesh, model.placements)
    return value.clone()


def rng_state() -> dict[str, Any]:
    """All generators of this process, JSON-ready."""
    name, keys, *rest = np.random.get_state()
    return {
        "torch": torch.get_rng_state().numpy().tobytes().hex(),
        "cuda": [s.numpy().tobytes().hex() for s in torch.cuda.get_rng_state_all()]
        if torch.cuda.is_available()
        else [],
        "numpy": [name, np.asarray(keys).tolist(), *rest],
        "python": random.getstate(),
    }


def restore_rng(state: Mapping[str, Any]) -> None:
    """The inverse of `rng_state`."""

    def tensor(text: str) -> Tensor:
        return torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)

    torch.set_rng_state(tensor(state["torch"]))
    for device, text in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(tensor(text), device)
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.asarray(keys, dtype=np.uint32), *rest))
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
