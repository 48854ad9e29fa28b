"""How many tokens hold a share of an image's information: hand-worked, and as properties."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from foveate.core import demand
from foveate.core.information_share import tokens_holding
from foveate.errors import MethodError

shares = st.floats(1e-3, 1.0)


@st.composite
def images(draw: st.DrawFn) -> Tensor:
    """Tokens of two images; any rank, scale and shape."""
    n, d = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    rank = draw(st.integers(1, min(n, d)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    left, right = (torch.randn(2, *shape, generator=generator) for shape in ((n, rank), (rank, d)))
    return left @ right * draw(st.sampled_from((1e-4, 1.0, 1e4)))


def test_by_hand() -> None:
    """Singular values 6, 3, 1: shares .6, .9, 1 of ten."""
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0))).Q
    x = (torch.diag(torch.tensor([1.0, 6.0, 3.0])) @ turn)[None].double()
    for share, count in ((0.3, 1), (0.59, 1), (0.61, 2), (0.89, 2), (0.91, 3), (1.0, 3)):
        assert tokens_holding(x, share).tolist() == [count], share
    # The shares themselves, but for rounding.
    whole = torch.diag(torch.tensor([6.0, 3.0, 1.0]))[None]
    assert [int(tokens_holding(whole, s)) for s in (0.6, 0.9)] == [1, 2]


@settings(max_examples=40, deadline=None)
@given(images(), shares)
def test_as_the_singular_values_say(x: Tensor, share: float) -> None:
    """The count found holds the share, one fewer does not."""
    for of_image, count in zip(x, tokens_holding(x, share).tolist(), strict=True):
        held = torch.linalg.svdvals(of_image.double()).cumsum(0) / torch.linalg.svdvals(
            of_image.double()
        ).sum().clamp_min(1e-300)
        if share < 1:
            assert 1 <= count <= min(x.shape[1:])
            assert held[count - 1] >= share - 1e-5
            assert count == 1 or held[count - 2] < share + 1e-5


@settings(max_examples=40, deadline=None)
@given(images(), shares, shares)
def test_a_larger_share_never_takes_fewer(x: Tensor, first: float, second: float) -> None:
    low, high = sorted((first, second))
    assert (tokens_holding(x, low) <= tokens_holding(x, high)).all()


@settings(max_examples=40, deadline=None)
@given(images(), shares)
def test_neither_scale_nor_company_nor_order_matters(x: Tensor, share: float) -> None:
    """A hair's breadth aside: the share is moved away from a step."""
    s = torch.linalg.svdvals(x.double())
    held = s.cumsum(-1) / s.sum(-1, keepdim=True).clamp_min(1e-300)
    if ((held - share).abs() < 1e-4).any():
        return
    wanted = tokens_holding(x, share)
    assert torch.equal(tokens_holding(8 * x, share), wanted)
    assert torch.equal(tokens_holding(x.flip(1), share), wanted)
    assert torch.equal(torch.cat([tokens_holding(one[None], share) for one in x]), wanted)


@pytest.mark.parametrize("num_tokens", [9, 64])
def test_one_keeps_all_and_blank_keeps_one(num_tokens: int) -> None:
    x = torch.stack([torch.zeros(num_tokens, 16), torch.ones(num_tokens, 16)])
    assert tokens_holding(x, 1.0).tolist() == [num_tokens] * 2
    assert tokens_holding(x, 0.999).tolist() == [1, 1]


def test_copies_hold_nothing_more() -> None:
    """As many for a page as for four of it; summing the score would take four times as many."""
    x = torch.randn(1, 10, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(tokens_holding(x.repeat(1, 4, 1), 0.9), tokens_holding(x, 0.9))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_type(dtype: torch.dtype) -> None:
    x = torch.randn(1, 20, 16, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert torch.equal(tokens_holding(x, 0.8), tokens_holding(x.double(), 0.8))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_no_number_is_refused(value: float) -> None:
    x = torch.ones(2, 4, 3)
    x[1, 2, 0] = value
    with pytest.raises(MethodError, match="NaN or infinite numbers"):
        tokens_holding(x, 0.9)


def test_too_much_is_refused_before_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demand, "LONGEST_SECONDS", 1.0)
    x = torch.zeros(1, 1, 1).expand(1, 4096, 4096)
    with pytest.raises(
        MethodError,
        match=r"fastv needs the singular values of 4096 x 4096 states \(keep_information\) for 1 "
        r"image of 4,096 tokens: about 6 s each .*; use keep_ratio or keep_tokens\.",
    ):
        tokens_holding(x, 0.9, method="fastv")
