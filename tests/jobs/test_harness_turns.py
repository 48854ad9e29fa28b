"""Harness prompts -> conversations: pictures before the text, or where the task puts them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from foveate.errors import InputError
from foveate.jobs.harness_turns import question_turns, turns_of_messages

RED, BLUE = Image.new("RGB", (4, 4), "red"), Image.new("L", (4, 4))


def shape_of(turns: list[Any]) -> list[str]:
    return [part.get("text", "<picture>") for turn in turns for part in turn["content"]]


def test_pictures_come_first() -> None:
    assert shape_of(question_turns("what ?", [RED, [BLUE]], "t/0")) == [
        "<picture>", "<picture>", "what ?",
    ]  # fmt: skip
    assert shape_of(question_turns("what ?", None, "t/0")) == ["what ?"]
    (turn,) = question_turns("what ?", [BLUE], "t/0")
    assert turn["content"][0]["image"].mode == "RGB"


def test_pictures_go_where_the_text_has_marks() -> None:
    turns = question_turns("is <image> like <image>?", [RED, BLUE], "t/0")
    assert shape_of(turns) == ["is ", "<picture>", " like ", "<picture>", "?"]


def test_another_number_of_marks_is_refused() -> None:
    with pytest.raises(InputError, match="t/7: the text has 2 times <image>, but there are 1 pic"):
        question_turns("<image><image>", [RED], "t/7")


def test_a_picture_may_be_a_path(tmp_path: Path) -> None:
    RED.save(tmp_path / "red.png")
    assert shape_of(question_turns("what ?", [str(tmp_path / "red.png")], "t/0"))[0] == "<picture>"


@pytest.mark.parametrize("visual", ["film.mp4", {"array": [0.0], "sampling_rate": 8}])
def test_only_pictures(visual: Any) -> None:
    with pytest.raises(InputError, match=r"t/1: got .* but only text and pictures can be asked"):
        question_turns("what ?", [visual], "t/1")


def test_messages() -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [
            {"type": "text", "text": "one"},
            {"type": "image", "url": RED},
            {"type": "text", "text": "two"},
        ]},
    ]  # fmt: skip
    turns = turns_of_messages(messages, "t/0")
    assert [turn["role"] for turn in turns] == ["system", "user"]
    assert shape_of(turns) == ["Be brief.", "one", "<picture>", "two"]


def test_other_parts_of_messages_are_refused() -> None:
    messages = [{"role": "user", "content": [{"type": "video", "url": "film.mp4"}]}]
    with pytest.raises(InputError, match="t/2: got a part of type 'video'"):
        turns_of_messages(messages, "t/2")
