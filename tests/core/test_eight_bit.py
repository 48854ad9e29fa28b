"""Matrices in eight bits: the nearest ones, zeros stay zeros, small weights are left alone."""

from __future__ import annotations

import pytest
import torch

from foveate.core.eight_bit import (
    LEAST_NUMBERS,
    MARK,
    from_eight_bits,
    is_worth_it,
    pack,
    to_eight_bits,
    unpack,
)


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e4])
def test_the_nearest(size: float) -> None:
    weight = torch.randn(6, 40, generator=torch.Generator().manual_seed(0)) * size
    weight[2] = 0
    weight[3] *= 100 if size < 1e4 else 1e-3  # rows do not share a scale
    numbers, scale = to_eight_bits(weight)
    assert numbers.dtype == torch.int8
    assert scale.shape == (6,)
    assert (numbers.abs().amax(dim=1) == torch.tensor([127, 127, 0, 127, 127, 127])).all()
    far = (numbers.float() * scale[:, None] - weight).abs()
    assert (far <= 0.5001 * scale[:, None]).all()
    # The next number in either direction is farther away.
    for step in (-1, 1):
        next_far = ((numbers.float() + step) * scale[:, None] - weight).abs()
        assert (next_far >= far - 1e-6 * size).all()


def test_again_is_the_same() -> None:
    """What came out of eight bits, rounded to float16, goes through them unchanged."""
    weight = torch.randn(6, 40, generator=torch.Generator().manual_seed(1))
    once = from_eight_bits(*to_eight_bits(weight))
    assert once.dtype == torch.float16
    assert torch.equal(to_eight_bits(once)[0], to_eight_bits(weight)[0])


def test_only_large_matrices() -> None:
    generator = torch.Generator().manual_seed(2)
    large = torch.randn(64, LEAST_NUMBERS // 64, generator=generator)
    weights = {
        "large": large,
        "small": large[:-1],
        "bias": large.flatten(),
        "stack": large.unsqueeze(0),
    }
    assert [name for name, weight in weights.items() if is_worth_it(weight)] == ["large"]
    stored = pack(weights)
    assert set(stored) == {*weights, "large" + MARK}
    restored = unpack(stored)
    assert list(restored) == list(weights)
    for name in ("small", "bias", "stack"):
        assert restored[name] is weights[name]
    assert 0 < (restored["large"] - large).norm() / large.norm() < 0.01
    assert unpack(weights) == weights
