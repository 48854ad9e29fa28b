"""Weighted coverage: the lazy choice is that of looking at every gain each time."""

from __future__ import annotations

import pytest
import torch

from foveate.core.greedy.coverage import greedy_coverage, in_rounds
from foveate.core.similarity import cosine, self_cosine
from tests.carve.oracle import one_by_one


@pytest.mark.parametrize("pool", [3, 16, 300])
@pytest.mark.parametrize("n", [5, 60, 300])
def test_the_lazy_choice(n: int, pool: int) -> None:
    generator = torch.Generator().manual_seed(n)
    features = torch.randn(n, 16, generator=generator)
    weight = torch.rand(n, generator=generator)
    weight[::7] = 0
    covers = self_cosine(features).clamp_min(0)
    chosen = in_rounds(covers, n - 1, weight, pool=pool).tolist()
    assert chosen == one_by_one.coverage(covers.T, n - 1, weight=weight)
    assert chosen != one_by_one.coverage(covers.T, n - 1), "the weight changes nothing"


def test_ties_go_to_the_lower_index() -> None:
    """Nothing has any weight, or all tokens are one and the same."""
    covers = torch.rand(50, 50, generator=torch.Generator().manual_seed(0))
    assert greedy_coverage(covers, 3, torch.zeros(50)).tolist() == [0, 1, 2]
    assert greedy_coverage(torch.ones(50, 50), 3, torch.ones(50)).tolist() == [0, 1, 2]


def test_the_weight_matters() -> None:
    weight = torch.tensor([1.0, 2, 3, 6, 5, 4])
    assert greedy_coverage(torch.eye(6), 3, weight).tolist() == [3, 4, 5]


@pytest.mark.parametrize("n", [1, 7, 1100])
def test_cosines_of_tokens_with_each_other(n: int) -> None:
    x = torch.randn(n, 8, generator=torch.Generator().manual_seed(n))
    x[0] = 0
    torch.testing.assert_close(self_cosine(x), cosine(x, x))
