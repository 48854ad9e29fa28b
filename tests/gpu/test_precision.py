"""bfloat16 weights, and float32 weights under autocast: what is kept then."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import foveate
from foveate.core.plan import KeepPlan
from tests.gpu import carving
from tests.gpu.carving import Carved

METHODS = carving.methods()


@pytest.mark.parametrize("name", METHODS)
def test_bfloat16_weights(
    family: str, name: str, device: torch.device, facts: dict[str, Any]
) -> None:
    """Finite, the same counts; how many tokens of float32 are kept goes into the row."""
    full, half = (
        carving.carve(
            carving.model_of(family, str(device), dtype),
            carving.moved(carving.inputs_of(family, (1, 2)), device, dtype),
            METHODS[name],
        )
        for dtype in (torch.float32, torch.bfloat16)
    )
    if isinstance(full, str) or isinstance(half, str):
        facts["refused"] = full
        assert half == full
        return
    assert half.logits.isfinite().all()
    assert [len(kept) for kept in half.kept] == [len(kept) for kept in full.kept]
    facts["shared"] = carving.shared(half, full)


# evs and dtd keep a still image whole.
NOT_ASKED = ("noop", "stack", "text-share", "pixelprune", "evs", "dtd")


@pytest.mark.parametrize("name", [n for n in foveate.METHODS if n not in NOT_ASKED])
def test_autocast_does_not_choose(
    family: str,
    name: str,
    device: torch.device,
    facts: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The states of a pass under autocast, chosen among inside it and again outside: the same."""
    method = foveate.method(name, keep_ratio=0.4)
    seen: list[tuple[Any, int, KeepPlan]] = []
    select = type(method).select

    def spy(self: Any, visual: Any, keep: int) -> KeepPlan:
        assert not torch.is_autocast_enabled(device.type)
        seen.append((visual, keep, select(self, visual, keep)))
        return seen[-1][-1]

    model = carving.model_of(family, str(device))
    inputs = carving.moved(carving.inputs_of(family, (1, 2)), device)
    plain = carving.carve(model, inputs, method)
    monkeypatch.setattr(type(method), "select", spy)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        found = carving.carve(model, inputs, method)
    if isinstance(plain, str) or isinstance(found, str):
        facts["refused"] = plain
        assert found == plain
        return
    assert seen
    for visual, keep, plan in seen:
        assert torch.equal(select(method, visual, keep).keep_idx, plan.keep_idx)
    facts["shared"] = carving.shared(found, plain)  # the model's own states differ by then
    assert isinstance(found, Carved)
    assert found.logits.isfinite().all()
