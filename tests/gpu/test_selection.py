"""Every method's choice at the size of a real image, on the device against the CPU."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

import foveate
from benchmarks.gpu.selection_alone import tokens_like
from foveate.carve.tower_method import TowerMethod
from foveate.core.precision import full_precision
from foveate.core.visual import VisualTokens

CPU = torch.device("cpu")
KEEP, TOKENS, WIDTH = 128, 576, 256
LEAST = 0.98  # of the tokens; scores this close together come out of other orders of adding up
METHODS = [
    name
    for name, method in foveate.METHODS.items()
    if not issubclass(method, TowerMethod) and name not in ("noop", "stack", "text-share")
]


@pytest.fixture(scope="module")
def visual() -> VisualTokens:
    return tokens_like(CPU, 2, TOKENS, WIDTH)


def chosen(name: str, visual: VisualTokens) -> torch.Tensor:
    """[images, KEEP] on the CPU."""
    with torch.no_grad(), full_precision(visual.hidden.device):
        return foveate.method(name, keep_tokens=KEEP).select(visual, KEEP).keep_idx.cpu()


def least_shared(a: torch.Tensor, b: torch.Tensor) -> float:
    """The smallest share of an image's kept tokens that both kept."""
    pairs = zip(a.tolist(), b.tolist(), strict=True)
    return min(len(set(one) & set(other)) / KEEP for one, other in pairs)


@pytest.mark.parametrize("name", METHODS)
def test_same_choice(
    name: str, visual: VisualTokens, device: torch.device, facts: dict[str, Any]
) -> None:
    fields = {field.name: getattr(visual, field.name) for field in dataclasses.fields(visual)}
    there = VisualTokens(
        **{k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in fields.items()}
    )
    facts["shared"] = least_shared(chosen(name, there), chosen(name, visual))
    assert facts["shared"] >= LEAST


def test_another_choice_is_found(visual: VisualTokens) -> None:
    assert least_shared(chosen("divprune", visual), chosen("fastv", visual)) < LEAST
