"""On states of the embedded model each method keeps what its plain form keeps."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import foveate
from foveate.carve.method import Method
from foveate.core.plan import KeepPlan
from foveate.core.visual import VisualTokens
from foveate.tasks.reading import example_page
from tests.carve.oracle import one_by_one

QUESTIONS = ("what is the price of the lamp?", "who?", "which place comes second on this page?")


@pytest.fixture(scope="module")
def embedded() -> Any:
    return foveate.load_vlm("embedded", device="cpu")


@pytest.mark.parametrize("ratio", [0.05, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("name", one_by_one.PLAIN)
def test_embedded_model(
    name: str, ratio: float, embedded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[VisualTokens, int, KeepPlan]] = []
    select = foveate.METHODS[name].select

    def recorded(method: Method, visual: VisualTokens, keep: int) -> KeepPlan:
        plan = select(method, visual, keep)
        seen.append((visual, keep, plan))
        return plan

    monkeypatch.setattr(foveate.METHODS[name], "select", recorded)
    image, _, _ = example_page()
    method = foveate.method(name, keep_ratio=ratio)
    inputs = embedded.inputs(list(QUESTIONS), [image.rotate(90 * i) for i in range(3)])
    with foveate.attach(embedded.model, method), torch.no_grad():
        embedded.model(**inputs)
    assert sum(visual.num_images for visual, _, _ in seen) >= len(QUESTIONS)
    for visual, keep, plan in seen:
        expected = [
            sorted(one_by_one.PLAIN[name](method, visual.take([i]), keep))
            for i in range(visual.num_images)
        ]
        assert plan.keep_idx.tolist() == expected
