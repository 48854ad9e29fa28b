"""Muon and AdamW under one roof."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from foveate.errors import ConfigError
from foveate.vist.train.muon import MuonAdamW, muon_matrices, orthogonalise
from foveate.vist.train.optim import OptimConfig, build_optimizer, set_lr


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 4, 12), (1, 12, 4)])
def test_orthogonalise_brings_singular_values_near_one(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    singular = torch.linalg.svdvals(orthogonalise(torch.randn(*shape, generator=generator)))
    assert bool(((singular > 0.3) & (singular < 1.5)).all()), singular


def test_groups_without_muon_step_as_adamw_does() -> None:
    torch.manual_seed(0)
    ours, theirs = nn.Linear(5, 3), nn.Linear(5, 3)
    theirs.load_state_dict(ours.state_dict())
    settings = {"lr": 0.01, "betas": (0.9, 0.98), "weight_decay": 0.1}
    pair = [
        (ours, MuonAdamW([{"params": list(ours.parameters())}], **settings)),  # type: ignore[arg-type]
        (theirs, torch.optim.AdamW(theirs.parameters(), **settings)),  # type: ignore[arg-type]
    ]
    x = torch.randn(7, 5)
    for _ in range(4):
        for module, optimizer in pair:
            module(x).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    torch.testing.assert_close(ours.weight, theirs.weight)
    torch.testing.assert_close(ours.bias, theirs.bias)


def test_muon_step_has_the_size_it_says() -> None:
    torch.manual_seed(0)
    module = nn.Linear(16, 16, bias=False)
    before = module.weight.detach().clone()
    optimizer = MuonAdamW([{"params": [module.weight], "muon": True}], lr=1e-3, muon_factor=5.0)
    module(torch.randn(64, 16)).square().sum().backward()
    optimizer.step()
    singular = torch.linalg.svdvals(module.weight.detach() - before)
    assert 0.3 * 5e-3 < float(singular.median()) < 1.5 * 5e-3


def test_only_linear_maps_are_matrices() -> None:
    module = nn.ModuleDict({"map": nn.Linear(3, 4), "norm": nn.LayerNorm(4)})
    module["lora"] = nn.ParameterDict({"down": nn.Parameter(torch.zeros(2, 4))})
    outer = nn.ModuleDict({"prefix": module, "table": nn.Embedding(5, 3)})
    outer["lm_head"] = nn.Linear(3, 5)
    assert muon_matrices(outer) == {"prefix.map.weight"}


def test_recipe_chooses_it() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    optimizer = build_optimizer(module, OptimConfig(kind="muon"), [{}])
    set_lr(optimizer, 0.1, 0)
    assert isinstance(optimizer, MuonAdamW)
    sizes = {len(g["params"]): g["muon"] for g in optimizer.param_groups}
    assert sizes == {1: True, 3: False}
    with pytest.raises(ConfigError, match="kind='sgd'; use adamw or muon"):
        OptimConfig(kind="sgd")  # type: ignore[arg-type]
