"""Muon for the matrices of linear maps, AdamW for everything else, as one optimiser."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["MuonAdamW", "muon_matrices", "orthogonalise"]


def orthogonalise(matrices: Tensor, steps: int = 5) -> Tensor:
    """Newton-Schulz iteration towards the nearest semi-orthogonal matrices, [K, m, n]."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.transpose(1, 2) if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.transpose(1, 2)
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.transpose(1, 2) if tall else x


def muon_matrices(module: nn.Module) -> set[str]:
    """Names of the weights that Muon is for: those of nn.Linear, but not a language model's head.

    That is a table with a row a word. It stays AdamW's, and so do a LoRA's factors.
    """
    return {
        f"{name}.weight"
        for name, child in module.named_modules()
        if isinstance(child, nn.Linear) and not name.endswith("lm_head")
    }


class MuonAdamW(torch.optim.Optimizer):
    """Both optimisers under one roof: groups with `muon=True` take orthogonalised momentum.

    Source: Jordan et al. 2024 (Muon), Loshchilov & Hutter 2019 (AdamW). A Muon step has spectral
    norm lr * muon_factor * sqrt(max(1, rows / columns)); it learns the reader and the glances in a
    third of AdamW's steps on our data.

    Args:
        groups: of parameters; those with "muon": True hold matrices only.
        lr: of AdamW; Muon's is that times muon_factor.
        muon_factor: see there.
        betas, eps, weight_decay: of AdamW; weight_decay of both.
        momentum: of Muon.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        *,
        lr: float = 1e-3,
        muon_factor: float = 5.0,
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
    ) -> None:
        defaults = {"lr": lr, "muon_factor": muon_factor, "betas": betas, "eps": eps,
                    "weight_decay": weight_decay, "momentum": momentum, "muon": False}  # fmt: skip
        super().__init__(groups, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            learning = [p for p in group["params"] if p.grad is not None]
            if group["muon"]:
                self._muon(group, learning)
            else:
                for parameter in learning:
                    self._adam(group, parameter)
        return loss

    def _muon(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        size = group["lr"] * group["muon_factor"]
        by_shape: dict[tuple[int, ...], list[Tensor]] = {}
        for parameter in parameters:
            by_shape.setdefault(tuple(parameter.shape), []).append(parameter)
        for (rows, columns), alike in by_shape.items():
            updates = []
            for parameter in alike:
                assert parameter.grad is not None
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
                updates.append(parameter.grad.lerp(state["momentum"], group["momentum"]))
            factor = size * max(1.0, rows / columns) ** 0.5
            for parameter, update in zip(alike, orthogonalise(torch.stack(updates)), strict=True):
                parameter.mul_(1 - size * group["weight_decay"])
                parameter.add_(update.to(parameter.dtype), alpha=-factor)

    def _adam(self, group: dict[str, Any], parameter: Tensor) -> None:
        assert parameter.grad is not None
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        state["step"] += 1
        beta1, beta2 = group["betas"]
        state["exp_avg"].lerp_(parameter.grad, 1 - beta1)
        state["exp_avg_sq"].mul_(beta2).addcmul_(parameter.grad, parameter.grad, value=1 - beta2)
        step = float(state["step"])
        mean = state["exp_avg"] / (1 - beta1**step)
        spread = (state["exp_avg_sq"] / (1 - beta2**step)).sqrt_().add_(group["eps"])
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.addcdiv_(mean, spread, value=-group["lr"])
