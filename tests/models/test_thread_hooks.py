"""Hooks of a purpose: kept ones are shared, those of one call are its own and go with it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from foveate.models.hook import hook_before
from foveate.models.thread_hooks import ThreadHooks


class Counting(ThreadHooks):
    def __init__(self, module: nn.Module) -> None:
        self.calls = 0
        super().__init__(id(module), [hook_before(module, self._count)])

    def _count(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self.calls += 1


class Other(Counting):
    """Another purpose on the same module."""


def on(kind: type[Counting], module: nn.Module) -> Any:
    return kind.on(id(module), lambda: kind(module))


def test_a_calls_own_hooks_are_nobody_elses() -> None:
    module = nn.Linear(2, 2)
    with on(Counting, module) as first:
        with on(Counting, module) as second:  # another thread's, as it were
            assert second is not first
        module(torch.zeros(2))  # the second has gone and took only its own
    module(torch.zeros(2))
    assert (first.calls, second.calls) == (1, 0)
    assert not module._forward_pre_hooks


def test_kept_hooks_stay_until_they_are_removed() -> None:
    module = nn.Linear(2, 2)
    kept = Counting(module).keep()
    later = Counting(module).keep()  # a second run: the first one's go on being used
    with on(Counting, module) as hooks, on(Other, module) as other:
        assert hooks is kept
        assert other is not kept
    assert len(module._forward_pre_hooks) == 2
    kept.remove()
    with on(Counting, module) as hooks:
        assert hooks not in (kept, later)
    later.remove()
    assert not module._forward_pre_hooks


def test_hooks_of_a_call_that_fails_go_too() -> None:
    module = nn.Linear(2, 2)
    with pytest.raises(ZeroDivisionError), on(Counting, module):
        _ = 1 / 0
    assert not module._forward_pre_hooks
