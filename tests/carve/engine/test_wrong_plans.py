"""A method of somebody else's whose plan is wrong is named, not answered from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch

import foveate
from foveate.core.plan import KeepPlan, keep_only
from foveate.core.visual import VisualTokens
from foveate.errors import MethodError

pytestmark = pytest.mark.usefixtures("own_methods")


def indices(*values: int) -> Callable[[VisualTokens, int], Any]:
    return lambda visual, keep: keep_only(torch.tensor([list(values)]), visual.num_tokens)


def merging(source: int, into: int) -> Callable[[VisualTokens, int], Any]:
    def plan(visual: VisualTokens, keep: int) -> KeepPlan:
        return KeepPlan(
            num_tokens=visual.num_tokens,
            keep_idx=torch.tensor([[1, 3]]),
            merge_src=torch.tensor([[source]]),
            merge_dst=torch.tensor([[into]]),
        )

    return plan


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (indices(0, 0), "not ascending"),
        (indices(-1, 1), "not within"), (indices(1, 196), "not within"),
        (indices(1), "kept 1 tokens of each image, not 2"),
        (lambda visual, keep: None, "returned NoneType, no KeepPlan"),
        (lambda visual, keep: keep_only(torch.tensor([[1, 3], [1, 3]]), visual.num_tokens),
         "for 1 images of 196"),
        (merging(3, 1), "merges tokens that are kept"), (merging(5, 7), "into tokens that are not"),
    ],
)  # fmt: skip
def test_a_wrong_plan_is_named(plan: Callable[[VisualTokens, int], Any], words: str) -> None:
    wished = plan

    @dataclass(frozen=True, kw_only=True)
    class Wrong(foveate.Method):
        name = "wrong"
        summary = "Whatever the test wants."

        def plan(self, visual: VisualTokens, keep: int) -> KeepPlan:
            return wished(visual, keep)

    vlm = foveate.load_vlm("embedded")
    image, question, _ = foveate.example_page()
    inputs = vlm.inputs(question, image)
    with foveate.attach(vlm.model, Wrong(keep_tokens=2)), pytest.raises(MethodError, match=words):
        vlm.answer(inputs, max_new_tokens=1)


def test_a_right_plan_answers() -> None:
    """The control."""

    @dataclass(frozen=True, kw_only=True)
    class Right(foveate.Method):
        name = "right"
        summary = "The first tokens, and the next one merged."

        def plan(self, visual: VisualTokens, keep: int) -> KeepPlan:
            return merging(2, 3)(visual, keep)

    vlm = foveate.load_vlm("embedded")
    image, question, _ = foveate.example_page()
    with foveate.attach(vlm.model, Right(keep_tokens=2)) as run:
        vlm.answer(vlm.inputs(question, image), max_new_tokens=1)
    assert run.report is not None
    assert run.report.kept == 2
