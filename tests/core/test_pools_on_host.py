"""A pool on a device comes to the host in one copy, and what is chosen of it waits for nothing."""

from __future__ import annotations

import torch

from benchmarks.pretended import OnDevice, counting, move
from foveate.core.greedy.farthest_in_pool import choose_farthest
from foveate.core.greedy.pivots import choose_pivots


def drawn(num_sets: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(num_sets, size, 9, generator=torch.Generator().manual_seed(size))
    return x, (x @ x.transpose(1, 2)).double()


def test_pivots() -> None:
    _, block = drawn(3, 12)
    left = block.diagonal(dim1=1, dim2=2).clone()
    least, bound = 1e-9 * left.amax(dim=1), left.amin(dim=1) / 50
    most = torch.tensor([7, 3, 12])  # the ninth pivot is the last that spans anything
    expected = choose_pivots(block, left, least, bound, most)
    assert expected.count.tolist()[1] == 3
    with counting() as counts:
        found = choose_pivots(*(move(t) for t in (block, left, least, bound)), most)
    assert counts.num_waits == 1, counts.waits
    for name in ("places", "lower", "gains"):
        own = getattr(found, name)
        assert isinstance(own, OnDevice)
        assert torch.equal(own.inner, getattr(expected, name))
    assert torch.equal(found.count, expected.count)
    # Behind the last: the first again, the identity, and nothing.
    assert found.places.inner[1, 3:].unique().tolist() == [int(found.places.inner[1, 0])]
    assert torch.equal(found.lower.inner[1, 3:, 3:], torch.eye(found.lower.shape[1] - 3).double())
    assert not found.gains.inner[1, 3:].any()


def test_farthest_points() -> None:
    x, _ = drawn(2, 12)
    distance = torch.cdist(x, x)
    nearest, bound = distance[:, 0].clone(), distance.amin(dim=(1, 2)) - 1
    most = torch.tensor([4, 6])
    places, count = choose_farthest(distance, nearest, bound, most, 0.0)
    with counting() as counts:
        found = choose_farthest(*(move(t) for t in (distance, nearest, bound)), most, 0.0)
    assert counts.num_waits == 1, counts.waits
    assert torch.equal(found[0].inner, places)
    assert torch.equal(found[1], count)
