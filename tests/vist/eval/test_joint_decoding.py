"""Answers decoded side by side are the answers one by one."""

from __future__ import annotations

from typing import Any

import pytest

from foveate.vist.eval import decoder_subject
from foveate.vist.eval.context import FarContext, Subject
from foveate.vist.eval.subjects import RawSubject, VistSubject
from tests.vist import tiny_vist as tiny
from tests.vist.eval.test_subjects import FAR, tokenizer

PROMPTS = ("w7_ w9_ w11_ w30_", "w7_", "w40_ w41_ w42_ w43_ w44_ w45_ w46_", "w9_ w9_", "w12_ w6_")


@pytest.fixture(scope="module", params=["llama", "qwen3"])
def model(request: pytest.FixtureRequest) -> Any:
    return tiny.model(request.param)


@pytest.fixture(scope="module", params=["raw", "lora", "states", "cross"])
def subject(model: Any, request: pytest.FixtureRequest) -> Any:
    if request.param == "raw":
        return RawSubject(model, tokenizer())
    vist = tiny.vist(model, request.param)
    vist.tokenizer = tokenizer()
    return VistSubject(vist)


@pytest.mark.parametrize("together", [1, 150, 10_000])
def test_equal_to_one_by_one(subject: Any, together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder_subject, "TOGETHER", together)
    far = FarContext(source=subject.encode(FAR))
    short = FarContext(source=far.source.cut(3, 20))
    fars = [far, None, short, far, short]
    said = subject.answers(fars, PROMPTS, 9)
    assert said == [subject.answer(f, p, 9) for f, p in zip(fars, PROMPTS, strict=True)]
    assert len(set(said)) > 1
    assert subject.answers(fars, PROMPTS, 1) == Subject.answers(subject, fars, PROMPTS, 1)
    assert subject.answers([], [], 5) == []


def test_an_answer_ends_where_it_ends_alone(subject: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that are done wait for the others and say nothing more."""
    far = FarContext(source=subject.encode(FAR))
    alone = subject.answer(far, PROMPTS[0], 9).split()
    stop = alone[2]
    ends = type(subject).is_done
    monkeypatch.setattr(
        type(subject),
        "is_done",
        lambda self, ids: ends(self, ids) or self.tokenizer.decode(ids[-1]) == stop,
    )
    first = subject.answer(far, PROMPTS[0], 9)
    assert first.split() == alone[: alone.index(stop) + 1]
    assert subject.answers([far] * 2, PROMPTS[:2], 9)[0] == first
