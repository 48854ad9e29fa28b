"""Every method on every family: the device keeps what the CPU keeps, and says what it says."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch

import foveate
from tests.gpu import carving
from tests.gpu.carving import CLOSE, Carved

METHODS = carving.methods()
PLACES = "embeddings.position_embedding.weight"
BATCHES = {"single": (1,), "ragged": (1, 2, 0)}


def check(
    model: Any,
    inputs: dict[str, Any],
    method: Any,
    got: Carved | str,
    want: Carved | str,
    facts: dict[str, Any],
) -> None:
    """Fails unless both refuse alike, or keep and say the same; `model` is the one of `want`."""
    if isinstance(want, str) or isinstance(got, str):
        facts["refused"] = want
        assert got == want
        return
    facts["logits"] = carving.distance(got, want)
    if got.kept != want.kept:
        facts["shared"] = carving.shared(got, want)
        facts["tie"] = carving.is_a_tie(model, inputs, method, want)
        assert facts["tie"], f"keeps {got.kept} instead of {want.kept}, and no tie explains it"
        return
    assert got.logits.isfinite().all()
    assert facts["logits"] < CLOSE


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("name", METHODS)
def test_same_as_on_the_cpu(
    family: str,
    name: str,
    batch: str,
    device: torch.device,
    facts: dict[str, Any],
) -> None:
    inputs = carving.inputs_of(family, BATCHES[batch])
    method = METHODS[name]
    model = carving.model_of(family, "cpu")
    want = carving.carve(model, inputs, method)
    there = carving.model_of(family, str(device))
    got = carving.carve(there, carving.moved(inputs, device), method)
    check(model, inputs, method, got, want, facts)


def test_other_tokens_and_other_words_are_found() -> None:
    """The comparison itself: it must fail on one kept token, and on logits 1 % away."""
    method = METHODS["divprune"]
    model, inputs = carving.model_of("llava", "cpu"), carving.inputs_of("llava", (1,))
    want = carving.carve(model, inputs, method)
    assert isinstance(want, Carved)
    kept = want.kept[0]
    other = next(i for i in range(99) if i not in kept)
    swapped = dataclasses.replace(want, kept=(tuple(sorted((*kept[1:], other))),))
    louder = dataclasses.replace(want, logits=want.logits * 1.01)
    for wrong in (swapped, louder, "refused"):
        with pytest.raises(AssertionError):
            check(model, inputs, method, wrong, want, {})


def test_a_tie_is_told_from_a_choice() -> None:
    """Patches without a place, all alike: whatever is kept of them, rounding chose it."""
    method = foveate.DivPrune(keep_ratio=0.4, prune_layer=0)
    inputs = carving.inputs_of("llava", (1,))
    flat = {**inputs, "pixel_values": torch.ones_like(inputs["pixel_values"])}
    placeless = copy.deepcopy(carving.model_of("llava", "cpu"))
    placeless.base_model.vision_tower.get_parameter(PLACES).detach().zero_()
    placed = carving.model_of("llava", "cpu")
    for model, given, is_tie in ((placed, inputs, False), (placeless, flat, True)):
        want = carving.carve(model, given, method)
        assert isinstance(want, Carved)
        assert carving.is_a_tie(model, given, method, want) is is_tie
