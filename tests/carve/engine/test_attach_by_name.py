"""attach with a method as people type it, and its budget beside it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import foveate
from foveate.assets import vlm_path
from foveate.carve.method import Method
from foveate.errors import BudgetError, MethodError
from foveate.models.load import VisionLanguageModel, load_vlm


@pytest.fixture(scope="module")
def vlm() -> VisionLanguageModel:
    return load_vlm(vlm_path())


@pytest.mark.parametrize(
    ("text", "keep", "method"),
    [
        ("tokencarve", "25%", foveate.TokenCarve(keep_ratio=0.25)),
        ("tokencarve", 0.25, foveate.TokenCarve(keep_ratio=0.25)),
        ("tokencarve", np.float32(0.25), foveate.TokenCarve(keep_ratio=0.25)),
        ("fastv(prune_layer=3)", "64", foveate.FastV(keep_tokens=64, prune_layer=3)),
        ("fastv", 64, foveate.FastV(keep_tokens=64)),
        ("fastv", torch.tensor(64), foveate.FastV(keep_tokens=64)),
        ("divprune:50%+fastv", 64, foveate.Stack(
            stages=(foveate.DivPrune(keep_ratio=0.5), foveate.FastV(keep_tokens=64)))),
        ("foveate.carve.methods.tome:ToMe", "50%", foveate.ToMe(keep_ratio=0.5)),
    ],
)  # fmt: skip
def test_text_and_budget(vlm: VisionLanguageModel, text: str, keep: Any, method: Method) -> None:
    with foveate.attach(vlm.model, text, keep=keep) as run:
        assert run.method == method
    assert "generate" not in vars(vlm.model)


@pytest.mark.parametrize(
    ("method", "keep", "error", "sentence"),
    [
        ("tokencarve", None, BudgetError,
         "'tokencarve' comes without a budget; give one, e.g. keep='25%'."),
        (foveate.FastV(keep_ratio=0.5), "25%", MethodError,
         "got keep='25%' beside the method fastv(keep=50%), which has a budget of its own; give "
         "one of them."),
        ("tokencarve", True, BudgetError,
         "keep=True is no integer or finite number; write 64 for a count, 0.25 or '25%'."),
        ("tokencarve", "a quarter", BudgetError,
         "budget 'a quarter' is not a count or a share; write 64, 25%, 0.25 or "
         "information=95%."),
        (foveate.FastV, None, MethodError,
         f"got {foveate.FastV!r} as the method; pass an instance such as "
         "foveate.TokenCarve(keep_tokens=128), or a name with keep=."),
    ],
)  # fmt: skip
def test_what_is_refused(
    vlm: VisionLanguageModel, method: Any, keep: Any, error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error) as caught:
        foveate.attach(vlm.model, method, keep=keep)
    assert str(caught.value) == sentence
