"""Selection in pools keeps what selection one by one keeps, ties and spent ranks included."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import foveate
from foveate.core.greedy import coverage, determinant, farthest
from foveate.core.greedy.cosine_distance import CosineDistance
from foveate.core.greedy.pairs import Dense
from foveate.core.greedy.pool import Pool, pool_of
from foveate.core.visual import VisualTokens
from tests.carve.oracle import one_by_one
from tests.carve.oracle.random_images import GENERIC, KINDS, images

CASES = 204  # 34 of each size, of each kind and mix of kinds
every_case = pytest.mark.parametrize("seed", range(CASES))


def kernels(seed: int) -> tuple[Tensor, int]:
    """Gram matrices; of every other case with a Gaussian part, which is of full rank."""
    visual, keep = images(seed)
    x = visual.hidden.double()
    gram = x @ x.transpose(1, 2)
    return gram + (seed % 2) * (-torch.cdist(x, x) / 8).exp(), keep


def distances(seed: int) -> tuple[CosineDistance, int]:
    visual, keep = images(seed)
    return CosineDistance(visual.hidden), keep


def weights(seed: int) -> tuple[Tensor, int]:
    """[G, R, N]: what MMTok covers, of every other case not square."""
    visual, keep = images(seed)
    x = torch.nn.functional.normalize(visual.hidden, dim=-1)
    found = (5 * x @ x.transpose(1, 2)).softmax(dim=-1)
    return (found[:, ::3] if seed % 2 else found), keep


def log_det_in_pools(seed: int, pool: int) -> list[list[int]]:
    kernel, keep = kernels(seed)
    chosen, _ = determinant.in_rounds(Dense(kernel), keep, floor=1e-9, pool=pool)
    return chosen.tolist()


def log_det_one_by_one(seed: int) -> list[list[int]]:
    kernel, keep = kernels(seed)
    return [one_by_one.log_det(of_image, keep) for of_image in kernel]


def farthest_in_pools(seed: int, pool: int) -> list[list[int]]:
    distance, keep = distances(seed)
    return farthest.in_rounds(distance, keep, pool=pool).tolist()


def farthest_one_by_one(seed: int) -> list[list[int]]:
    visual, keep = images(seed)
    return [one_by_one.divprune(None, visual.take([i]), keep) for i in range(visual.num_images)]  # type: ignore[arg-type]


def coverage_in_pools(seed: int, pool: int) -> list[list[int]]:
    found, keep = weights(seed)
    return [coverage.in_rounds(of_image.T, keep, pool=pool).tolist() for of_image in found]


def coverage_one_by_one(seed: int) -> list[list[int]]:
    found, keep = weights(seed)
    return [one_by_one.coverage(of_image, keep) for of_image in found]


SELECTIONS: dict[str, tuple[Any, Callable[..., Any], Callable[..., Any]]] = {
    "log-det": (determinant, log_det_in_pools, log_det_one_by_one),
    "farthest": (farthest, farthest_in_pools, farthest_one_by_one),
    "coverage": (coverage, coverage_in_pools, coverage_one_by_one),
}
every_selection = pytest.mark.parametrize("name", SELECTIONS)


def sets(chosen: list[list[int]]) -> list[set[int]]:
    return [set(of_image) for of_image in chosen]


@every_selection
@every_case
def test_sets_are_equal(name: str, seed: int) -> None:
    _, in_pools, plain = SELECTIONS[name]
    expected = sets(plain(seed))
    for pool in (2, 16, 64):
        assert sets(in_pools(seed, pool)) == expected, f"pools of {pool}"


@every_selection
def test_a_wrong_bound_is_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: a round that forgets what is outside of its pool keeps other tokens."""
    module, in_pools, plain = SELECTIONS[name]

    def unbounded(score: Tensor, size: int, **ties: float) -> Pool:
        found = pool_of(score, size, **ties)
        return replace(found, bound=torch.full_like(found.bound, -torch.inf))

    monkeypatch.setattr(module, "pool_of", unbounded)
    differ = [seed for seed in range(60) if sets(in_pools(seed, 16)) != sets(plain(seed))]
    assert len(differ) > 10, differ


@every_selection
def test_ties_count_only_where_there_are_some(name: str) -> None:
    """Where no two tokens lie in one direction the forms without any rule for ties keep the same.

    Where some do, those forms go by how float32 rounded their copies. The log-determinant also
    needs images of full rank: what is left behind that is rounding too.
    """
    looked_at = 0
    for seed in range(120):
        visual, keep = images(seed, GENERIC if name == "log-det" else KINDS)
        image = visual.take([0])
        x = torch.nn.functional.normalize(image.hidden[0].double(), dim=-1)
        apart = 1 - x @ x.T
        if bool((apart.fill_diagonal_(1) < 2e-6).any()):
            continue
        looked_at += 1
        if name == "log-det":
            kernel = one_by_one.foveacarve_kernel(foveate.FoveaCarve(keep_tokens=1), image)
            found = determinant.greedy_log_det(kernel[None], keep)[0][0].tolist()
            expected = one_by_one.log_det(kernel, keep, tie=0.0)
        elif name == "farthest":
            found = farthest.in_rounds(CosineDistance(image.hidden), keep, pool=16)[0].tolist()
            expected = one_by_one.farthest(one_by_one.cosine_distance(image, same=-1.0), keep)
        else:
            matrix = one_by_one.mmtok_weights(foveate.MmTok(keep_tokens=1), image)
            found = coverage.in_rounds(matrix.T, keep, pool=16).tolist()
            expected = one_by_one.coverage(matrix, keep, tie=0.0, nothing=0.0)
        assert set(found) == set(expected), seed
    assert looked_at > 60


@pytest.fixture(params=["as they are", "small pools"])
def pools(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "small pools":
        for module in (determinant, farthest):
            monkeypatch.setattr(module, "FEW", 0)
            monkeypatch.setattr(module, "POOL", 12)


@pytest.mark.usefixtures("pools")
@pytest.mark.parametrize("name", one_by_one.PLAIN)
@every_case
def test_methods_keep_the_same(name: str, seed: int) -> None:
    visual, keep = images(seed)
    if name == "foveacarve":  # its first step, blind or not
        attention = visual.attention
        assert attention is not None
        ahead = attention.mean(dim=1) if seed % 2 == 0 else None
        visual = replace(visual, attention=None, foresight=ahead)
    method = foveate.method(name, keep_tokens=keep)
    plan = method.plan(visual, keep)
    alone = [visual.take([i]) for i in range(visual.num_images)]
    expected = [sorted(one_by_one.PLAIN[name](method, image, keep)) for image in alone]
    kept = plan.keep_idx.tolist()
    kept_alone = [method.plan(image, keep).keep_idx[0].tolist() for image in alone]
    if name == "dart":  # its products round copies of a token apart, some kernels at some columns
        kept, kept_alone, expected = (
            as_first_copies(visual, several) for several in (kept, kept_alone, expected)
        )
    assert kept == expected
    assert kept_alone == expected


def as_first_copies(visual: VisualTokens, kept: list[list[int]]) -> list[list[int]]:
    """Each token by the first that is the same."""
    found = []
    for states, tokens in zip(visual.hidden, kept, strict=True):
        is_same = (states[:, None] == states).all(dim=-1)  # [N, N]
        first = is_same.int().argmax(dim=-1).tolist()
        found.append(sorted(first[token] for token in tokens))
    return found
