"""The nearest of a set, from short lists: as if every cosine had been looked at."""

from __future__ import annotations

import pytest
import torch

from foveate.core.nearest import Neighbours
from foveate.core.similarity import best_match


@pytest.mark.parametrize("count", [1, 8, 64, 500])
@pytest.mark.parametrize("share", [0.5, 0.05])
def test_as_if_every_cosine_was_looked_at(count: int, share: float) -> None:
    generator = torch.Generator().manual_seed(count)
    features = torch.randn(200, 12, generator=generator)
    order = torch.randperm(200, generator=generator)
    among, tokens = order[: int(200 * share)], order[100:]
    expected, _ = best_match(features[tokens], features[among])
    got = Neighbours(features, count).likeness(tokens, among)
    torch.testing.assert_close(got, expected)


def test_the_set_matters() -> None:
    features = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    near = Neighbours(features, 2)
    first = torch.tensor([0])
    assert near.likeness(first, torch.tensor([1, 2])).tolist() == [1.0]
    assert near.likeness(first, torch.tensor([2])).tolist() == [0.0]
    torch.testing.assert_close(near.likeness(first, torch.tensor([2, 3])), torch.tensor([0.6]))
