"""The steps in a pool by Triton are those of the host: on a GPU, or with TRITON_INTERPRET=1."""

from __future__ import annotations

import os

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")
if not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("no GPU, and TRITON_INTERPRET=1 is not set", allow_module_level=True)

from foveate.core import determinant, farthest
from foveate.core.cosine_distance import CosineDistance
from foveate.core.farthest_in_pool import choose_farthest
from foveate.core.farthest_triton import choose_farthest_on_gpu
from foveate.core.pairs import Dense
from foveate.core.pivots import choose_pivots
from foveate.core.pivots_triton import choose_pivots_on_gpu
from tests.carve.oracle import one_by_one
from tests.carve.oracle.random_images import images

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize("size", [1, 5, 16, 40])
def test_pivots_are_those_of_the_host(size: int) -> None:
    """Images of full rank and not, with copies; bounds that end it early, at once or never."""
    generator = torch.Generator().manual_seed(size)
    x = torch.randn(4, size, size // 2 + 3, generator=generator, dtype=torch.float64)
    x[1] = x[1, torch.randint(0, size // 2 + 1, (size,), generator=generator)]
    x[3] = 0
    block = x @ x.transpose(1, 2)
    left = block.diagonal(dim1=1, dim2=2).clone()
    least = 1e-9 * left.amax(dim=1)
    bound = torch.stack([left[0].mean() / 2, -left.new_ones(()), left[2].max() * 2, -least[3]])
    most = torch.tensor([size, size, size, size])
    left[0, 0] = -torch.inf
    expected = choose_pivots(block, left, least, bound, most)
    found = choose_pivots_on_gpu(*(t.to(DEVICE) for t in (block, left, least, bound)), most)
    assert found.count.tolist() == expected.count.tolist()
    assert found.places.tolist() == expected.places.tolist()
    torch.testing.assert_close(found.lower.cpu(), expected.lower)
    torch.testing.assert_close(found.gains.cpu(), expected.gains)


@pytest.mark.parametrize("size", [1, 5, 16, 40])
@pytest.mark.parametrize("tie", [0.0, 1e-6])
def test_farthest_are_those_of_the_host(size: int, tie: float) -> None:
    """Plain images, copies and zeros; bounds that end it early, at once or never."""
    generator = torch.Generator().manual_seed(size)
    x = torch.randn(4, size, 8, generator=generator)
    x[1] = x[1, torch.randint(0, size // 2 + 1, (size,), generator=generator)]
    x[3] = x[3, :1]
    distance = CosineDistance(x).matrix()
    nearest = CosineDistance(x).rows(torch.zeros(4, 1, dtype=torch.long))[:, 0].contiguous()
    nearest[:, 0] = -torch.inf
    bound = torch.stack(
        [nearest[0].amax() / 2, torch.tensor(-torch.inf), 2 * nearest[2].amax(), -torch.tensor(1.0)]
    )
    most = torch.tensor([size, size, size, max(1, size // 2)])
    expected = choose_farthest(distance, nearest, bound, most, tie)
    found = choose_farthest_on_gpu(*(t.to(DEVICE) for t in (distance, nearest, bound)), most, tie)
    for a, b in zip(found, expected, strict=True):
        assert a.tolist() == b.tolist()


every_set = pytest.mark.parametrize("seed", [*range(3, 30, 6), *range(4, 60, 18)])


@every_set
def test_farthest_sets_are_those_of_one_by_one(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(farthest, "_chooser", lambda device: choose_farthest_on_gpu)
    visual, keep = images(seed)
    alone = [visual.take([i]) for i in range(visual.num_images)]
    expected = [set(one_by_one.divprune(None, image, keep)) for image in alone]  # type: ignore[arg-type]
    distance = CosineDistance(visual.hidden.to(DEVICE))
    for chosen in (
        farthest.in_rounds(distance, keep, pool=16),
        farthest.farthest_points(distance, keep),
    ):
        assert [set(of_image) for of_image in chosen.tolist()] == expected


@every_set
def test_log_det_sets_are_those_of_one_by_one(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(determinant, "_chooser", lambda device: choose_pivots_on_gpu)
    visual, keep = images(seed)
    x = visual.hidden.double()
    kernel = x @ x.transpose(1, 2) + (-torch.cdist(x, x) / 8).exp()
    chosen, _ = determinant.in_rounds(Dense(kernel.to(DEVICE)), keep, floor=1e-9, pool=16)
    expected = [set(one_by_one.log_det(of_image, keep)) for of_image in kernel]
    assert [set(of_image) for of_image in chosen.tolist()] == expected
