"""How often the host waits for the GPU in a carved prefill, by CUDA's own debug mode."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch

import foveate
from tests import tiny_kinds as kinds
from tests.gpu import carving

LIMIT = 2  # more than without a method
SAID = "called a synchronizing CUDA operation"
# The debug mode does not see these, which wait because they are told to.
EXPLICIT = (
    (torch.cuda, "synchronize"),
    (torch.cuda.Event, "synchronize"),
    (torch.cuda.Stream, "synchronize"),
)


@contextmanager
def explicit_waits_warn() -> Iterator[None]:
    """What waits explicitly warns as the debug mode does."""
    patch = pytest.MonkeyPatch()

    def warning(call: Callable[..., Any]) -> Callable[..., Any]:
        def warn(*args: Any, **kwargs: Any) -> Any:
            warnings.warn(SAID, stacklevel=2)
            return call(*args, **kwargs)

        return warn

    for owner, name in EXPLICIT:
        patch.setattr(owner, name, warning(getattr(owner, name)))
    try:
        yield
    finally:
        patch.undo()


def synchronisations(work: Callable[[], object], device: torch.device) -> int:
    """How often `work` made the host wait."""
    with warnings.catch_warnings(record=True) as caught, explicit_waits_warn():
        warnings.simplefilter("always")
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            if device.type == "cuda":
                torch.cuda.set_sync_debug_mode("default")
    return sum(SAID in str(warning.message) for warning in caught)


@pytest.mark.parametrize("name", carving.methods())
def test_a_carved_prefill_waits_at_most_twice(
    family: str, name: str, device: torch.device, facts: dict[str, Any]
) -> None:
    model = carving.model_of(family, str(device))
    inputs = carving.moved(carving.inputs_of(family, (1, 2)), device)
    method = carving.methods()[name]

    def prefill() -> None:
        with torch.no_grad():
            model(**kinds.given(inputs), logits_to_keep=1)

    refused = carving.carve(model, inputs, method)
    if isinstance(refused, str):
        pytest.skip(f"refused: {refused}")
    for key, attached in (
        ("plain", nullcontext()),
        ("carved", foveate.attach(model, method)),
    ):
        with attached:
            prefill()
            facts[key] = synchronisations(prefill, device)
    assert facts["carved"] - facts["plain"] <= LIMIT


def test_a_read_value_counts(cuda: torch.device) -> None:
    """The debug mode itself: it counts what waits, and nothing else."""
    numbers = torch.arange(8, device=cuda)
    assert synchronisations(lambda: numbers * 2, cuda) == 0
    assert synchronisations(lambda: (numbers.sum().item(), numbers.tolist()), cuda) == 2
    assert synchronisations(lambda: numbers[numbers > 3], cuda) >= 1


def test_an_explicit_wait_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    cpu = torch.device("cpu")
    assert synchronisations(lambda: (torch.cuda.synchronize(), torch.cuda.synchronize()), cpu) == 2
    assert synchronisations(lambda: None, cpu) == 0
