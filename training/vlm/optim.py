"""Muon for weight matrices with AdamW for everything else, in one small optimiser."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from foveate.vist.train.muon import orthogonalise

__all__ = ["Mixed", "orthogonalise"]


class Mixed:
    """Muon on 2-D weights of ``nn.Linear``, AdamW on the rest; state exports as flat tensors.

    Args:
        module: what to train; parameters without gradient at a step are skipped.
        muon_lr: step of the matrices (unit: spectral norm, scaled by sqrt(max(1, out / in))).
        adam_lr: step of the other parameters.
        factors: {start of a parameter's name: factor on its step}; the first that fits counts.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        muon_lr: float,
        adam_lr: float,
        momentum: float = 0.95,
        decay: float = 0.0,
        factors: dict[str, float] | None = None,
    ) -> None:
        linears = {
            f"{name}.weight": child.weight
            for name, child in module.named_modules()
            if isinstance(child, nn.Linear) and "lm_head" not in name
        }
        self.matrices = {n: p for n, p in linears.items() if p.requires_grad}
        self.others = {
            n: p for n, p in module.named_parameters() if n not in linears and p.requires_grad
        }
        self.muon_lr, self.adam_lr = muon_lr, adam_lr
        self.momentum, self.decay = momentum, decay
        self.factors = factors or {}
        self.step_count = 0
        self.state: dict[str, torch.Tensor] = {}

    @torch.no_grad()
    def step(self, scale: float = 1.0) -> None:
        """Apply one update with both learning rates multiplied by ``scale``; clears gradients."""
        self.step_count += 1
        groups: dict[tuple[int, ...], list[str]] = {}
        for name, parameter in self.matrices.items():
            if parameter.grad is not None:
                groups.setdefault(tuple(parameter.shape), []).append(name)
        for (rows, columns), names in groups.items():
            updates = []
            for name in names:
                gradient = self.matrices[name].grad
                buffer = self.state.setdefault(f"momentum/{name}", torch.zeros_like(gradient))
                buffer.lerp_(gradient, 1 - self.momentum)
                updates.append(gradient.lerp(buffer, self.momentum))
            stacked = orthogonalise(torch.stack(updates))
            size = self.muon_lr * scale * max(1.0, rows / columns) ** 0.5
            for name, update in zip(names, stacked, strict=True):
                parameter = self.matrices[name]
                parameter.mul_(1 - self.muon_lr * scale * self.decay)
                parameter.add_(update, alpha=-size * self._factor(name))
        self._adam(scale)
        for parameter in self._parameters():
            parameter.grad = None

    def _adam(self, scale: float, beta1: float = 0.9, beta2: float = 0.98) -> None:
        for name, parameter in self.others.items():
            gradient = parameter.grad
            if gradient is None:
                continue
            first = self.state.setdefault(f"first/{name}", torch.zeros_like(gradient))
            second = self.state.setdefault(f"second/{name}", torch.zeros_like(gradient))
            first.lerp_(gradient, 1 - beta1)
            second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
            mean = first / (1 - beta1**self.step_count)
            spread = (second / (1 - beta2**self.step_count)).sqrt_().add_(1e-8)
            size = self.adam_lr * scale * self._factor(name)
            parameter.addcdiv_(mean, spread, value=-size)

    def _factor(self, name: str) -> float:
        return next((f for start, f in self.factors.items() if name.startswith(start)), 1.0)

    def _parameters(self) -> Iterable[nn.Parameter]:
        yield from self.matrices.values()
        yield from self.others.values()
