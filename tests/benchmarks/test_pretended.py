"""The pretended device sees what a real one would be asked, and not what the host does alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from benchmarks.pretended import DEVICE, OnDevice, counting, move

WAITING: dict[str, Callable[[Tensor], object]] = {
    "item": lambda x: x.sum().item(),
    "int": lambda x: int(x[0, 0]),
    "bool": lambda x: bool((x > 0).any()),
    "tolist": lambda x: x.tolist(),
    "cpu": lambda x: x.cpu(),
    "to": lambda x: x.to("cpu", torch.float64),
    "boolean index": lambda x: x[x > 0],
    "nonzero": lambda x: x.nonzero(),
    "masked_select": lambda x: x.masked_select(x > 0),
    "equal": lambda x: torch.equal(x, x),
    "unique": lambda x: torch.unique(x),
    "repeat_interleave": lambda x: x.repeat_interleave((x[:, 0] > 0).long() + 1, dim=0),
    "copy to the device": lambda x: torch.ones(3).to(x.device),
    "tensor": lambda x: torch.tensor([1.0, 2.0], device=x.device),
    "index of the host": lambda x: x[torch.tensor([0, 2])],
}
FREE: dict[str, Callable[[Tensor], object]] = {
    "product": lambda x: x @ x.T,
    "view": lambda x: x[:, 1:].transpose(0, 1),
    "index": lambda x: x[torch.arange(2, device=x.device)],
    "fill by a mask": lambda x: x.clone().__setitem__(x > 0, 1.0),
    "sort": lambda x: x.sort(dim=-1).indices,
    "host alone": lambda x: torch.ones(4).nonzero().tolist(),
    "sent": lambda x: torch.ones(3).to(x.device, non_blocking=True),
    "nothing sent": lambda x: torch.tensor([], device=x.device),
}


def sample() -> Tensor:
    tensor: Tensor = move(torch.arange(12.0).view(3, 4) - 5)
    return tensor


@pytest.mark.parametrize("name", WAITING)
def test_a_wait_is_seen(name: str) -> None:
    with counting() as counts, torch.no_grad():
        WAITING[name](sample())
    assert counts.num_waits == 1, counts.waits


@pytest.mark.parametrize("name", FREE)
def test_nothing_else_is_taken_for_one(name: str) -> None:
    with counting() as counts, torch.no_grad():
        FREE[name](sample())
    assert counts.num_waits == 0, counts.waits


def test_launches_are_operations_without_views() -> None:
    with counting() as counts, torch.no_grad():
        found = (sample().transpose(0, 1)[1:] + 1).relu()
    assert isinstance(found, OnDevice)
    assert found.device == DEVICE
    assert dict(counts.launches) == {"add": 1, "relu": 1}


def test_host_and_device_do_not_mix() -> None:
    with counting(), torch.no_grad(), pytest.raises(RuntimeError, match="of the host"):
        sample() + torch.ones(3, 4)


def test_values_are_those_of_a_cpu() -> None:
    plain = torch.arange(12.0).view(3, 4) - 5
    with counting(), torch.no_grad():
        found = sample().softmax(dim=-1).cumsum(dim=0).cpu()
    assert torch.equal(found, plain.softmax(dim=-1).cumsum(dim=0))
