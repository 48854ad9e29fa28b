"""Optimisers with groups by name, and step sizes that warm up and fall along a cosine."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from foveate.errors import ConfigError
from foveate.vist.train.muon import MuonAdamW, muon_matrices

__all__ = ["OptimConfig", "build_optimizer", "check_part", "lr_scale", "matching", "set_lr"]


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """The optimiser and its schedule.

    Args:
        kind: "adamw", or "muon" for the matrices of linear maps with AdamW for the rest; see
            foveate.vist.train.muon. Muon needs whole matrices: not with FSDP.
        muon_factor: Muon's step size over AdamW's.
        beta1, beta2, eps: of AdamW.
        weight_decay: of matrices; vectors, norms and learned latents have none.
        clip: largest norm of the gradient, 0 for no limit.
        warmup: share of a stage's steps in which the step size rises from 0.
        floor: share of the peak at which the cosine ends.

    Raises:
        ConfigError: a value is impossible.
    """

    kind: Literal["adamw", "muon"] = "adamw"
    muon_factor: float = 5.0
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip: float = 1.0
    warmup: float = 0.04
    floor: float = 0.0

    def __post_init__(self) -> None:
        for name in ("beta1", "beta2", "warmup", "floor"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(
                    f"OptimConfig got {name}={getattr(self, name)}; use at least 0, less than 1."
                )
        for name in ("weight_decay", "clip"):
            if getattr(self, name) < 0:
                raise ConfigError(f"OptimConfig got {name}={getattr(self, name)}; use 0 or more.")
        if self.kind not in ("adamw", "muon"):
            raise ConfigError(f"OptimConfig got kind={self.kind!r}; use adamw or muon.")
        if self.muon_factor <= 0:
            raise ConfigError(f"OptimConfig got muon_factor={self.muon_factor}; use more than 0.")
        if self.eps <= 0:
            raise ConfigError(f"OptimConfig got eps={self.eps}; use more than 0.")


def lr_scale(step: int, steps: int, config: OptimConfig) -> float:
    """Factor on the peak step size at `step` of `steps`, counted from 0.

    Linear from 0 (excluded) over the first `warmup` share, then half a cosine down to `floor`.
    """
    rise = math.ceil(config.warmup * steps)
    if step < rise:
        return (step + 1) / rise
    share = (step - rise) / max(1, steps - rise)
    return config.floor + (1 - config.floor) * (1 + math.cos(math.pi * share)) / 2


def matching(names: Iterable[str], prefix: str) -> list[str]:
    """Names that lie below `prefix` or are it."""
    return [name for name in names if name == prefix or name.startswith(f"{prefix}.")]


def build_optimizer(
    module: nn.Module, config: OptimConfig, factors: Sequence[Mapping[str, float]]
) -> torch.optim.Optimizer:
    """One optimiser over all parameters, grouped by decay and by their factors in each stage.

    Args:
        module: what is trained.
        config: see there.
        factors: for each stage {start of parameter names: factor on lr}; the longest fit counts.

    Raises:
        ConfigError: a start fits no parameter.
    """
    named = dict(module.named_parameters())
    matrices = muon_matrices(module) if config.kind == "muon" else set()
    groups: dict[tuple[tuple[float, ...], float, bool], list[nn.Parameter]] = {}
    for stage in factors:
        for prefix in stage:
            check_part(named, prefix, "lr_factors")
    for name, parameter in named.items():
        own = tuple(_factor(name, stage) for stage in factors)
        is_matrix = parameter.ndim >= 2 and not name.endswith(("latents", "cls", "bias"))
        decay = config.weight_decay if is_matrix else 0.0
        groups.setdefault((own, decay, name in matrices), []).append(parameter)
    made: list[dict[str, Any]] = [
        {"params": found, "weight_decay": decay, "factors": own, "lr": 0.0}
        | ({"muon": True} if muon else {})
        for (own, decay, muon), found in groups.items()
    ]
    if config.kind == "muon":
        return MuonAdamW(
            made,
            muon_factor=config.muon_factor,
            betas=(config.beta1, config.beta2),
            eps=config.eps,
        )
    return torch.optim.AdamW(
        made,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        # One kernel for all parameters; elsewhere torch decides.
        fused=True if all(p.is_cuda for p in named.values()) else None,
    )


def check_part(names: Iterable[str], prefix: str, owner: str) -> None:
    """Raises ConfigError if no parameter's name starts with `prefix`."""
    names = list(names)
    if not matching(names, prefix):
        tops = sorted({".".join(name.split(".")[:2]) for name in names})
        raise ConfigError(
            f"{owner} names {prefix!r}, which is no part of what is trained; use the start of a "
            f"parameter's name, such as {', '.join(tops)}."
        )


def set_lr(optimizer: torch.optim.Optimizer, lr: float, stage: int) -> None:
    """Give each group lr times its factor in a stage."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["factors"][stage]


def _factor(name: str, factors: Mapping[str, float]) -> float:
    fits = [prefix for prefix in factors if matching([name], prefix)]
    return factors[max(fits, key=len)] if fits else 1.0
