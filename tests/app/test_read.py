"""The Read tab's logic, with a tiny random Vist: three ways to read, told apart and in order."""

from __future__ import annotations

import re

import pytest
import torch

from foveate.app.read import TextReader, TextReading
from foveate.app.read_html import (
    reading_answers_html,
    reading_counts_html,
    strips_html,
    text_parts_html,
)
from foveate.errors import InputError
from tests.vist import tiny_vist

TEXT = " ".join(f"word{i % 17} of strip{i % 5}" for i in range(120))


@pytest.fixture(scope="module")
def reader() -> TextReader:
    return TextReader(tiny_vist.vist(tiny_vist.model("llama"), local_bias="window"))


@pytest.fixture(scope="module")
def states(reader: TextReader) -> list[TextReading]:
    return list(reader.read(TEXT, None, recent=20, max_new_tokens=5))


def test_the_answers_come_one_after_the_other(states: list[TextReading]) -> None:
    known = [(s.compressed is not None, s.absent is not None, s.full is not None) for s in states]
    assert known == [
        (False, False, False), (True, False, False), (True, True, False), (True, True, True),
    ]  # fmt: skip
    assert reading_answers_html(states[1]).count("being written") == 2


def test_lost_characters_are_said_and_too_many_refused(reader: TextReader) -> None:
    (state, *_) = reader.read(TEXT.replace("word3 ", "\u6771\u4eac "), None, recent=20)
    assert state.lost.total() > 0
    assert "U+6771" in reading_counts_html(state)
    assert "characters" in reading_counts_html(state)
    with pytest.raises(InputError, match="cannot be shown to this model"):
        next(reader.read("\u6771\u4eac " * 400, None, recent=20))


def test_nothing_is_said_where_nothing_is_lost(states: list[TextReading]) -> None:
    assert not states[0].lost
    assert "cannot be shown" not in reading_counts_html(states[0])


def test_the_parts_are_the_text(states: list[TextReading]) -> None:
    reading = states[0].reading
    assert reading.opening + reading.far + reading.recent == TEXT
    assert len(reading.recent_ids) == 20


def test_each_way_is_what_it_says(reader: TextReader, states: list[TextReading]) -> None:
    last, vist = states[-1], reader.vist
    model, tokenizer = vist.model, vist.tokenizer
    ids = tokenizer(TEXT, return_tensors="pt")["input_ids"]
    prompt = torch.cat([ids[:, :1], ids[:, -20:]], dim=1)

    def said(given: torch.Tensor) -> str:
        out = model.generate(given, max_new_tokens=5, do_sample=False)
        return str(tokenizer.decode(out[0, given.shape[1] :])).strip()

    assert last.full is not None
    assert last.absent is not None
    assert last.compressed is not None
    assert last.full.text == said(ids)
    assert last.absent.text == said(prompt)
    with vist.attach(vist.read(last.reading.far)):
        assert last.compressed.text == said(prompt)


def test_counts(states: list[TextReading]) -> None:
    state = states[0]
    assert state.tokens_after == state.latents + 21 < state.tokens_before
    shown = reading_counts_html(state)
    assert f"<dd>{state.tokens_before:,}</dd>" in shown
    assert f"{state.latents:,} latents" in shown
    assert f"in {len(state.strips)} pictures" in shown  # type: ignore[arg-type]


def test_strips_are_drawn(states: list[TextReading]) -> None:
    strips = states[0].strips
    assert strips is not None
    shown = strips_html(strips)
    assert shown.count("<img ") == len(strips)
    assert len(set(re.findall(r'alt="[^"]+"', shown))) == len(strips)


def test_texts_are_escaped(states: list[TextReading], reader: TextReader) -> None:
    (first, *_) = reader.read(f"<script>{TEXT}", None, recent=20)
    assert "<script>" not in text_parts_html(first)
    assert "&lt;script&gt;" in text_parts_html(first)


def test_a_text_beyond_the_window_is_not_read_in_full(reader: TextReader) -> None:
    *_, last = reader.read(TEXT * 3, None, recent=20, max_new_tokens=2)
    assert last.full is not None
    assert "does not fit the model's window of 512." in last.full.note
    assert "does not fit" in reading_answers_html(last)


def test_nothing_far_is_refused(reader: TextReader) -> None:
    with pytest.raises(InputError, match="the last 500 stay raw, so nothing would be read as"):
        next(reader.read(TEXT, None, recent=500))


def test_a_question_shows_where_it_looked(reader: TextReader) -> None:
    reader.vist.tokenizer.chat_template = (
        "{% for m in messages %}w1 w2{{ m['content'] }}{% endfor %} w4"
    )
    first, second, *_ = reader.read(TEXT, "w3 <b>?", recent=20, max_new_tokens=2)
    assert first.look is None
    assert "looked at" not in text_parts_html(first)
    assert second.look is not None
    shown, look = text_parts_html(second), second.look
    assert shown.count("<mark ") == len(look.places) == len(second.looked) > 0
    assert "looked at, place 1: words" in shown
    far = second.reading.far
    assert [far[a:b].split() for a, b in second.looked] == [
        far[a:b].split() for a, b in sorted(second.looked)
    ]
    assert re.sub(r"<[^>]+>", "", shown).endswith(second.reading.far + second.reading.recent)
    assert f"{look.num_raw:,} tokens looked at" in reading_counts_html(second)
    raw = len(second.reading.prompt)
    assert second.tokens_after == raw + look.num_entries
    assert f"{raw:,} tokens, 20 of them" in reading_counts_html(second)
