"""Weighted coverage: the lazy choice is that of looking at every gain each time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from foveate.core import coverage
from foveate.core.coverage import weighted_coverage
from foveate.core.similarity import cosine


def plainly(features: Tensor, weight: Tensor, k: int) -> list[int]:
    likeness = cosine(features, features)
    covered, chosen = torch.zeros(len(features)), []
    for _ in range(k):
        gain = (likeness - covered).clamp_min(0).sum(dim=1) * weight
        gain[chosen] = -torch.inf
        chosen.append(int(gain.argmax()))
        covered = torch.maximum(covered, likeness[chosen[-1]])
    return chosen


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("n", [5, 60, 300])
def test_the_lazy_choice(n: int, held: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coverage, "_HELD", n if held else n - 1)
    monkeypatch.setattr(coverage, "_CHUNK", 37)
    generator = torch.Generator().manual_seed(n)
    features = torch.randn(2, n, 16, generator=generator)
    weight = torch.rand(2, n, generator=generator)
    chosen = weighted_coverage(features, weight, n - 1)
    assert chosen.tolist() == [plainly(x, w, n - 1) for x, w in zip(features, weight, strict=True)]


def test_ties_go_to_the_lower_index() -> None:
    """Nothing has any weight, or all tokens are one and the same."""
    features = torch.randn(1, 50, 4, generator=torch.Generator().manual_seed(0))
    assert weighted_coverage(features, torch.zeros(1, 50), 3).tolist() == [[0, 1, 2]]
    same = torch.ones(1, 50, 4)
    assert weighted_coverage(same, torch.ones(1, 50), 3).tolist() == [[0, 1, 2]]


def test_the_weight_matters() -> None:
    features = torch.eye(6)[None]
    weight = torch.tensor([[1.0, 2, 3, 6, 5, 4]])
    assert weighted_coverage(features, weight, 3).tolist() == [[3, 4, 5]]
