"""`name=value` settings -> model, method and prompt; what is unknown is an error."""

from __future__ import annotations

from typing import Any

import pytest

import foveate
from foveate.core.budget import Budget
from foveate.errors import BudgetError, InputError, MethodError
from foveate.jobs.answerer_settings import AnswererSettings

BASE = {"pretrained": "embedded", "method": "tokencarve", "keep_tokens": 48}


def test_what_is_not_ours_is_the_methods() -> None:
    settings = AnswererSettings.of(
        {**BASE, "attention_weight": 0.5, "prune_layer": 2, "batch_size": "8", "device": "cpu"}
    )
    assert settings.method == foveate.TokenCarve(
        keep_tokens=48, attention_weight=0.5, prune_layer=2
    )
    assert settings.batch_size == 8
    assert settings.device == "cpu"
    assert settings.pretrained == "embedded"
    assert settings.attn_implementation is None


def test_noop_needs_no_budget() -> None:
    settings = AnswererSettings.of({"pretrained": "embedded", "method": "noop"})
    assert settings.method.budget.count(576) == 576


def test_quotes_that_kept_a_comma_together_are_dropped() -> None:
    settings = AnswererSettings.of({**BASE, "system_prompt": "'Be brief, please.'"})
    assert settings.system_prompt == "Be brief, please."


def test_a_method_with_settings_in_brackets() -> None:
    settings = AnswererSettings.of({**BASE, "method": "tokencarve(attention_weight=0.3)"})
    assert settings.method == foveate.TokenCarve(keep_tokens=48, attention_weight=0.3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"keep_token": 4}, r"got keep_token=4, which is no setting here; there are pretrained, "
                            r"method, device.* and of tokencarve: .*keep_tokens, keep_ratio"),
        ({"device_map": "auto"}, r"got device_map='auto', which is no setting"),
        ({"batch_size": "auto"}, r"batch_size='auto' is not a whole number; give one, e.g."),
        ({"batch_size": 0}, r"batch_size=0 is below 1"),
        ({"max_pixels": 1.5}, r"max_pixels=1.5 is not a whole number"),
        ({"image_aspect_ratio": "square"}, r"'square' is unknown; use original or pad"),
        ({"method": "tokencarve(attention_weight=0.3)", "prune_layer": 3},
         r"got prune_layer=3.*of the budget of 'tokencarve\(attention_weight=0.3\)': keep_tokens"),
    ],
)  # fmt: skip
def test_refusals(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        AnswererSettings.of({**BASE, **given})


@pytest.mark.parametrize("name", ["pretrained", "method"])
def test_what_is_missing(name: str) -> None:
    with pytest.raises(InputError, match=rf"{name} is missing; give e.g. {name}="):
        AnswererSettings.of({key: value for key, value in BASE.items() if key != name})


def test_the_methods_own_errors() -> None:
    with pytest.raises(MethodError, match="attention_weight='low' is no finite number"):
        AnswererSettings.of({**BASE, "attention_weight": "low"})
    with pytest.raises(MethodError, match="unknown method 'carve'; choose one of"):
        AnswererSettings.of({**BASE, "method": "carve"})
    with pytest.raises(
        BudgetError, match="got none of keep_tokens, keep_ratio and keep_information"
    ):
        AnswererSettings.of({"pretrained": "embedded", "method": "fastv"})


def test_a_budget_by_information() -> None:
    given = {"pretrained": "embedded", "keep_information": 0.9, "keep_min": 4, "keep_max": 0.5}
    budget = Budget(keep_information=0.9, keep_min=4, keep_max=0.5)
    for name in ("fastv", "divprune:50%+fastv"):
        assert AnswererSettings.of({**given, "method": name}).method.budget == budget
