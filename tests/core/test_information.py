"""Information scores: the exact form against an SVD, the subspace form against the exact one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from foveate.core.information import (
    EXACT_UP_TO,
    information_exact,
    information_norm,
    information_subspace,
    score_in_use,
)
from foveate.core.orthonormal import orthonormal
from foveate.core.rank import top_k
from foveate.errors import MethodError

CPU = torch.device("cpu")


def normal(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def by_svd(x: Tensor) -> Tensor:
    u, s, _ = torch.linalg.svd(x.double(), full_matrices=False)
    return (u * s.unsqueeze(-2)).abs().sum(-1)


def decaying(num_tokens: int, width: int, seed: int = 1) -> Tensor:
    """Singular values that fall as 1 / rank, rows of different size, as in a language model."""
    side = min(num_tokens, width)
    u = torch.linalg.qr(normal(num_tokens, side, seed=seed)).Q
    v = torch.linalg.qr(normal(width, side, seed=seed + 1)).Q
    x = (u / torch.arange(1, side + 1)) @ v.T
    return x * (0.5 * normal(num_tokens, 1, seed=seed + 2)).exp()


def overlap(a: Tensor, b: Tensor) -> float:
    """Share of the better half of the tokens that both agree on."""
    size = len(a) // 2
    both = (set(top_k(score, size).tolist()) for score in (a, b))
    return len(set.intersection(*both)) / size


@pytest.mark.parametrize("shape", [(20, 50), (50, 20), (30, 30), (2, 16, 40), (1, 1, 8)])
def test_exact_equals_svd(shape: tuple[int, ...]) -> None:
    x = normal(*shape)
    torch.testing.assert_close(information_exact(x), by_svd(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", [(20, 50), (50, 20), (3, 20, 50)])
def test_subspace_of_full_rank_is_exact(shape: tuple[int, ...]) -> None:
    x = normal(*shape) * torch.logspace(0, -3, shape[-1])  # separate the singular values
    score = information_subspace(x, rank=20, iterations=0)
    torch.testing.assert_close(score, by_svd(x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("shape", [(100, 200), (200, 100)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_subspace_finds_a_low_rank_signal(shape: tuple[int, int], dtype: torch.dtype) -> None:
    x = (normal(shape[0], 8) @ normal(8, shape[1], seed=2)).to(dtype)
    exact = by_svd(x.float())
    loose = 5e-3 if dtype == torch.float32 else 0.05  # rounding has a rank of its own
    torch.testing.assert_close(information_subspace(x, rank=16), exact, atol=0, rtol=loose)


@pytest.mark.parametrize("shape", [(400, 900), (900, 400)])
def test_subspace_ranks_tokens_as_the_exact_score_does(shape: tuple[int, int]) -> None:
    """With the norm as the control: it does not, so agreement is no matter of course."""
    x = decaying(*shape)
    exact = information_exact(x)
    assert overlap(information_subspace(x), exact) > 0.95
    assert overlap(information_norm(x), exact) < 0.92


def blank(x: Tensor) -> Tensor:
    return torch.zeros_like(x)


def constant(x: Tensor) -> Tensor:
    return torch.ones_like(x)


def one_row_repeated(x: Tensor) -> Tensor:
    return x[..., :1, :].expand_as(x)


def two_kinds_of_rows(x: Tensor) -> Tensor:
    return x[..., :2, :].repeat(1, x.shape[-2] // 2, 1)


def rank_of_the_block(x: Tensor) -> Tensor:
    return x[..., :64] @ normal(64, x.shape[-1], seed=5)


def mostly_blank(x: Tensor) -> Tensor:
    out = torch.zeros_like(x)
    out[..., 11:15, :] = x[..., 11:15, :]
    return out


def one_huge_row(x: Tensor) -> Tensor:
    out = x.clone()
    out[..., 3, :] *= 1e4
    return out


def tiny(x: Tensor) -> Tensor:
    return 1e-18 * x


@pytest.mark.parametrize("shape", [(2, 150, 220), (2, 220, 150)])
@pytest.mark.parametrize(
    "image",
    [blank, constant, one_row_repeated, two_kinds_of_rows, rank_of_the_block, mostly_blank,
     one_huge_row, tiny],
)  # fmt: skip
def test_subspace_of_a_degenerate_image(image: object, shape: tuple[int, int, int]) -> None:
    x = image(normal(*shape))  # type: ignore[operator]
    score = information_subspace(x)
    exact = by_svd(x)
    assert score.isfinite().all()
    assert (score >= 0).all()
    # What is left outside of a subspace of full rank is rounding; of the others, a part.
    within = 0.3 if image in (one_huge_row, tiny) else 0.02
    assert ((score - exact).abs() <= within * exact.amax(-1, keepdim=True)).all()


def test_neighbours_do_not_change_a_score() -> None:
    x = normal(4, 150, 220)
    x[1] *= 1e6
    x[2] = 0
    x[3] = x[3, :1]
    together = information_subspace(x)
    for i in range(4):
        torch.testing.assert_close(information_subspace(x[i : i + 1])[0], together[i])


def test_zero_rows_have_no_information() -> None:
    x = normal(100, 200)
    x[3] = 0
    assert float(information_exact(x)[3]) == pytest.approx(0, abs=1e-6)
    assert float(information_subspace(x)[3]) == 0
    assert float(information_norm(x)[3]) == 0


@pytest.mark.parametrize("settings", [{"rank": 0}, {"iterations": -1}])
def test_subspace_refuses_nonsense(settings: dict[str, int]) -> None:
    with pytest.raises(MethodError, match="rank must be at least 1 and iterations at least 0"):
        information_subspace(normal(4, 4), **settings)


@pytest.mark.parametrize(
    ("num_tokens", "width", "device", "expected"),
    [
        (576, 4096, "cpu", "exact"),
        (EXACT_UP_TO["cpu"], 3584, "cpu", "exact"),
        (EXACT_UP_TO["cpu"] + 1, 3584, "cpu", "subspace"),
        (16384, 512, "cpu", "exact"),
        (196, 192, "cuda", "exact"),
        (576, 4096, "cuda", "subspace"),
    ],
)
def test_auto_is_exact_where_that_is_cheap(
    num_tokens: int, width: int, device: str, expected: str
) -> None:
    assert score_in_use(num_tokens, width, torch.device(device)) == expected


@pytest.mark.parametrize("decades", [0, 4, 9])
def test_orthonormal_columns_that_span_the_block(decades: int) -> None:
    """float32 alone fails the middle case: its Gram matrix knows four decades at most."""
    block = normal(2, 300, 64).double() * torch.logspace(0, -decades, 64, dtype=torch.float64)
    block = block @ torch.linalg.qr(normal(64, 64, seed=3).double()).Q
    basis = orthonormal(block)
    torch.testing.assert_close(
        basis.transpose(1, 2) @ basis, torch.eye(64, dtype=torch.float64).expand(2, -1, -1)
    )
    left_out = block - basis @ (basis.transpose(1, 2) @ block)
    assert float(left_out.abs().max()) < 1e-9


def test_dependent_columns_become_next_to_nothing() -> None:
    block = normal(300, 5).double() @ normal(5, 64, seed=2).double()
    block[:, 7] = 0
    length = torch.linalg.vector_norm(orthonormal(block), dim=0)
    assert ((length > 0.99) & (length < 1.01)).sum() == 5
    assert (length < 0.01).sum() == 59


@pytest.mark.parametrize("score", [information_exact, information_subspace])
@pytest.mark.parametrize(("num_tokens", "width"), [(80, 100), (100, 80)])
def test_states_of_any_size(score: Callable[[Tensor], Tensor], num_tokens: int, width: int) -> None:
    """Their squares overflow float32, or vanish in it."""
    x = decaying(num_tokens, width)
    own = score(x)
    assert torch.equal(score(x * 2.0**80), own * 2.0**80)
    assert torch.equal(score(x * 2.0**-70), own * 2.0**-70)
    x = x / x.abs().max()
    own = score(x)
    for size in (1e25, 1e-25, 3e38):
        torch.testing.assert_close(score(x * size) / size, own, rtol=1e-3, atol=0.0)
    assert not (score(torch.zeros(5, 4)) != 0).any()
