"""Resumable training state as safetensors (weights, optimiser) plus JSON (counters)."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from training.vlm.optim import Mixed

__all__ = ["load", "load_weights", "save"]


def save(path: Path, module: nn.Module, optimiser: Mixed, counters: dict[str, Any]) -> None:
    """Write ``path``.safetensors and ``path``.json; an interrupted write leaves the old files."""
    tensors = {f"model/{k}": v.detach().contiguous() for k, v in module.state_dict().items()}
    tensors |= {f"optimiser/{k}": v.contiguous() for k, v in optimiser.state.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**counters, "optimiser_steps": optimiser.step_count})
    save_file(tensors, f"{path}.tmp", metadata={"counters": text})
    os.replace(f"{path}.tmp", f"{path}.safetensors")
    Path(f"{path}.json").write_text(text + "\n")


def load(path: Path, module: nn.Module, optimiser: Mixed) -> dict[str, Any] | None:
    """Restore what ``save`` wrote; None when there is nothing at ``path``."""
    if not Path(f"{path}.safetensors").exists():
        return None
    from safetensors import safe_open

    tensors = load_file(f"{path}.safetensors")
    module.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model/")})
    optimiser.state = {k[10:]: v.clone() for k, v in tensors.items() if k.startswith("optimiser/")}
    with safe_open(f"{path}.safetensors", framework="pt") as file:
        counters: dict[str, Any] = json.loads(file.metadata()["counters"])
    optimiser.step_count = counters.pop("optimiser_steps")
    return counters


def load_weights(path: Path, prefix: str = "") -> dict[str, torch.Tensor]:
    """The model's weights of a checkpoint, optionally only those below ``prefix`` (cut off)."""
    start = f"model/{prefix}"
    tensors = load_file(f"{path}.safetensors")
    return {k[len(start) :]: v for k, v in tensors.items() if k.startswith(start)}
