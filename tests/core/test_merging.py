"""Merged sums: the same in both forms, and counts of merged tokens without a look at the device."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor

from benchmarks.pretended import OnDevice, counting, move
from foveate.core.plan import KeepPlan, compose, merge_to_owners, num_merged, with_added


def drawn_plan(num_tokens: int, keep: int, merge: int, generator: torch.Generator) -> KeepPlan:
    order = torch.randperm(num_tokens, generator=generator)
    kept = order[:keep].sort().values
    dst = kept[torch.randint(keep, (merge,), generator=generator)]
    return KeepPlan(
        num_tokens=num_tokens,
        keep_idx=kept[None],
        merge_src=order[None, keep : keep + merge],
        merge_dst=dst[None],
    )


@pytest.mark.parametrize("num_images", [1, 3])
def test_devices_add_what_the_cpu_adds(num_images: int) -> None:
    generator = torch.Generator().manual_seed(3)
    total, sources = (torch.randn(num_images, n, 8, generator=generator) for n in (5, 40))
    slot = torch.randint(5, (num_images, 40), generator=generator)
    expected = total.clone()
    for image in range(num_images):
        for source in range(40):
            expected[image, slot[image, source]] += sources[image, source]
    on_cpu = with_added(total, slot, sources)
    with counting() as counts, torch.no_grad():
        on_device = with_added(*(move(t) for t in (total, slot, sources)))
    assert isinstance(on_device, OnDevice)
    assert counts.num_waits == 0
    assert "scatter_add" not in counts.launches
    for found in (on_cpu, on_device.inner):
        assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "counts", [((20, 12, 5), (12, 4, 6)), ((20, 12, 5), (12, 6, 3), (6, 2, 2))]
)
def test_merged_tokens_are_counted_as_they_compose(
    counts: tuple[tuple[int, int, int], ...], seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    plans = [drawn_plan(*count, generator) for count in counts]
    assert int(num_merged(plans)) == functools.reduce(compose, plans).num_merged


def test_one_needs_no_device() -> None:
    plan = drawn_plan(20, 12, 5, torch.Generator())
    assert num_merged([plan]) == 5
    assert num_merged([]) == 0


def test_owners_with_a_known_count() -> None:
    owners: Tensor = torch.tensor([[0, 0, 2, 2, 0], [4, 1, 1, 1, 4]])
    plan = merge_to_owners(owners, 2)
    plan.check(2)
    assert plan.keep_idx.tolist() == [[0, 2], [1, 4]]
    assert plan.merge_src.tolist() == [[1, 3, 4], [0, 2, 3]]
    assert plan.merge_dst.tolist() == [[0, 2, 0], [4, 1, 1]]
