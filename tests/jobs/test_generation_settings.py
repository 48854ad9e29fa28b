"""Generation settings of harness tasks: greedy or sampled, stop texts, refusals."""

from __future__ import annotations

from typing import Any

import pytest

from foveate.errors import InputError
from foveate.jobs.generation_settings import MAX_NEW_TOKENS, GenerationSettings

GREEDY = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"temperature": 0},
        {"temperature": "0.0"},
        {"temperature": 0, "top_p": 1.0, "num_beams": 1, "do_sample": False},
        {"temperature": 0.7, "do_sample": False},
        {"temperature": 0, "do_sample": True},
    ],
)
def test_greedy(given: dict[str, Any]) -> None:
    arguments = dict(GenerationSettings.of(given).arguments)
    assert {key: arguments[key] for key in GREEDY} == GREEDY
    assert arguments["num_beams"] == 1


@pytest.mark.parametrize(
    "given", [{"temperature": 0.7}, {"do_sample": True}, {"temperature": 1, "do_sample": True}]
)
def test_sampled(given: dict[str, Any]) -> None:
    arguments = dict(GenerationSettings.of({**given, "top_p": 0.9}).arguments)
    assert arguments["do_sample"] is True
    assert arguments["top_p"] == 0.9
    assert arguments.get("temperature") == given.get("temperature")


def test_length_and_stop_texts() -> None:
    settings = GenerationSettings.of({"max_new_tokens": 16, "until": ["ASSISTANT:", ""]})
    assert dict(settings.arguments)["max_new_tokens"] == 16
    assert settings.until == ("ASSISTANT:",)
    assert GenerationSettings.of({"until": "\n\n"}).until == ("\n\n",)
    assert GenerationSettings.of({"stop_sequences": ["x"]}).until == ("x",)
    assert dict(GenerationSettings.of({"until": None}).arguments)["max_new_tokens"] == (
        MAX_NEW_TOKENS
    )


def test_equal_settings_share_batches() -> None:
    one = GenerationSettings.of({"max_new_tokens": 4, "temperature": 0})
    other = GenerationSettings.of({"temperature": 0, "max_new_tokens": 4, "until": None})
    assert one == other
    assert hash(one) == hash(other)


def test_settings_for_other_wrappers_are_said_to_do_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings = GenerationSettings.of({"image_aspect_ratio": "original"})
    assert settings == GenerationSettings.of({})
    assert "image_aspect_ratio='original' does nothing" in caplog.text


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"max_tokens": 5}, r"hold max_tokens=5, which is unknown; use max_new_tokens, until"),
        ({"max_new_tokens": 0}, r"max_new_tokens=0 is not a whole number of at least 1"),
        ({"num_beams": 1.5}, r"num_beams=1.5 is not a whole number"),
        ({"temperature": "hot"}, r"temperature='hot' is not a number; use 0 for greedy"),
        ({"until": [1]}, r"until=\[1\] is neither a text nor a list of texts"),
    ],
)
def test_refusals(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        GenerationSettings.of(given)
