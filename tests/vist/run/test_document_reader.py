"""A long text read with a Vist: what is raw, what is latents, and what it took."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from foveate.errors import ConfigError, InputError
from foveate.vist.run import document_reader
from foveate.vist.run.document_reader import DocumentReader
from foveate.vist.run.vist import Vist
from tests.vist import tiny_vist

TEXT = " ".join(f"word{i % 17} of strip{i % 5}" for i in range(120))
CHAT = "{% for m in messages %}w1 w2{{ m['content'] }}{% endfor %} w4"


@pytest.fixture(scope="module")
def llama() -> Any:
    return tiny_vist.model("llama")


@pytest.fixture
def vist(llama: Any) -> Vist:
    return tiny_vist.vist(llama, local_bias="window")


def test_a_text_goes_on(vist: Vist, llama: Any) -> None:
    reader = DocumentReader(vist, recent=20)
    found = reader.go_on(TEXT, max_new_tokens=5, grow=False, compare=True)
    report, tokens = found.report, len(vist.tokenizer(TEXT)["input_ids"])
    assert report.text_tokens == report.tokens_before == tokens
    assert report.raw_tokens == 21  # the first token is the sink
    assert report.tokens_after == report.latents + 21 < tokens
    shape = vist.parts.shape
    size = 2 * shape.num_layers * shape.num_kv_heads * shape.head_dim * 4
    assert report.kv_bytes_before == tokens * size
    assert report.kv_bytes_after == report.tokens_after * size
    ids = vist.tokenizer(TEXT, return_tensors="pt")["input_ids"]
    out = llama.generate(ids, max_new_tokens=5, do_sample=False)
    assert report.answer_before == vist.tokenizer.decode(out[0, ids.shape[1] :]).strip()


def test_the_memory_is_what_is_read(vist: Vist, llama: Any) -> None:
    """The same tokens come out of a hand-made attach."""
    found = DocumentReader(vist, recent=20).go_on(TEXT, max_new_tokens=5, grow=False)
    assert found.report.answer_before is None
    offsets = vist.tokenizer(TEXT, return_offsets_mapping=True)["offset_mapping"]
    first, border = offsets[0][1], offsets[-20][0]
    memory = vist.read(TEXT[first:border])
    ids = vist.tokenizer(TEXT, return_tensors="pt")["input_ids"]
    prompt = torch.cat([ids[:, :1], ids[:, -20:]], dim=1)
    with vist.attach(memory):
        out = llama.generate(prompt, max_new_tokens=5, do_sample=False)
    assert found.text == vist.tokenizer.decode(out[0, 21:]).strip()


def test_a_text_that_goes_on_gets_more_raw_tokens(vist: Vist, llama: Any) -> None:
    reader = DocumentReader(vist, recent=20)
    latents = reader.go_on(TEXT, max_new_tokens=5, grow=False).report
    found = reader.go_on(TEXT, max_new_tokens=5)
    assert found.report.tokens_after == latents.tokens_after
    assert found.report.latents == 0
    more = 20 + latents.latents
    left = found.report.text_tokens - 1 - more
    assert f"{more} tokens are read as text" in found.report.note
    assert f"the {left:,} before are not read" in found.report.note
    ids = vist.tokenizer(TEXT, return_tensors="pt")["input_ids"]
    prompt = torch.cat([ids[:, :1], ids[:, -more:]], dim=1)
    out = llama.generate(prompt, max_new_tokens=5, do_sample=False)
    assert found.text == vist.tokenizer.decode(out[0, prompt.shape[1] :]).strip()


@pytest.mark.parametrize("recent", [None, 10])
def test_a_question_looks_behind_the_documents_opening(
    vist: Vist, llama: Any, recent: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    vist.tokenizer.chat_template = CHAT
    monkeypatch.setattr(document_reader, "RECENT", 30)  # of 240 tokens
    monkeypatch.setattr(document_reader, "LEAST_LOOK", 70)
    reader = DocumentReader(vist, recent=recent)
    pieces: list[str] = []
    answer = reader.ask(TEXT, "which strip?", max_new_tokens=5, stream=pieces.append)
    report, look = answer.report, answer.report.look
    before, after = reader._ids("w1 w2"), reader._ids("\n\nwhich strip? w4")
    assert report.raw_tokens == len(before) + (recent or 0) + len(after)
    assert look is not None
    assert look.question == "which strip?"
    assert look.budget == 70
    assert report.tokens_after == report.raw_tokens + look.num_entries
    assert f"({report.latents} latents + {look.num_raw} looked at" in str(report)
    assert report.to_dict()["look"]["places"][0]["text"]
    assert report.answer_before is None
    assert "".join(pieces).strip() == answer.text
    # The same tokens come out of a hand-made attach.
    reading = reader.split(TEXT, "which strip?")
    memory, at = vist.read(reading.far), len(before)
    share = reader.default_look(memory)
    with vist.attach(memory, memory_at=at, fixate=share, question="which strip?"):
        prompt = reading.prompt[None]
        out = llama.generate(prompt, max_new_tokens=5, do_sample=False)
    new = out[0, prompt.shape[1] :]
    assert answer.text == vist.tokenizer.decode(new, skip_special_tokens=True).strip()
    skimmed = reader.ask(TEXT, "which strip?", max_new_tokens=1, fixate=0).report
    assert skimmed.look is None
    assert skimmed.latents == memory.num_latents


def test_a_form_that_cannot_look_answers_from_latents(llama: Any) -> None:
    vist = tiny_vist.vist(llama, "cross", local_bias="window")
    vist.tokenizer.chat_template = CHAT
    found = DocumentReader(vist, recent=10).ask(TEXT, "which strip?", max_new_tokens=2)
    assert found.report.look is None
    assert "cannot look again" in found.report.note


def test_a_short_text_stays_raw(vist: Vist) -> None:
    found = DocumentReader(vist, recent=500).go_on("w5 w6 w7", max_new_tokens=2)
    assert found.report.latents == 0
    assert "3 tokens and 500 stay raw" in found.report.note
    assert "nothing to compress" in str(found.report)


def test_raw_text_that_does_not_fit_is_not_run(vist: Vist, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Vist, "window", property(lambda self: 200))
    reader = DocumentReader(vist, recent=20)
    report = reader.go_on(TEXT, max_new_tokens=2, compare=True).report
    assert report.seconds_before is None
    assert "does not fit the model's window of 200" in report.note


def test_raw_text_is_never_written_beyond_the_window(vist: Vist) -> None:
    vist.tokenizer.chat_template = CHAT
    with pytest.raises(InputError, match="exceed the model's window of 512"):
        DocumentReader(vist).go_on(TEXT * 5, max_new_tokens=600)
    with pytest.raises(InputError, match="exceed the model's window of 512"):
        DocumentReader(vist, recent=4000).ask(TEXT * 5, "what?", max_new_tokens=5)


@pytest.mark.parametrize(
    ("text", "question", "message"),
    [
        ("  \n", "what?", "the text is empty"),
        (TEXT, " ", "the question is empty"),
        (TEXT, "what?", "has no chat template"),
    ],
)
def test_bad_input(vist: Vist, text: str, question: str, message: str) -> None:
    vist.tokenizer.chat_template = CHAT if "template" not in message else None
    with pytest.raises(InputError, match=message):
        DocumentReader(vist).ask(text, question)


def test_settings_are_refused_before_a_text_is_read(
    vist: Vist, monkeypatch: pytest.MonkeyPatch
) -> None:
    vist.tokenizer.chat_template = CHAT
    monkeypatch.setattr(vist, "read", pytest.fail)
    reader = DocumentReader(vist, recent=20)
    for text in (TEXT, "w5 w6 w7"):  # a short one too, which looks nowhere
        for share in (-0.1, 1.5, "10%", True):
            with pytest.raises(ConfigError, match="use a share above 0 up to 1"):
                reader.ask(text, "what?", fixate=share)  # type: ignore[arg-type]
        with pytest.raises(InputError, match="max_new_tokens=0 is below 1"):
            reader.ask(text, "what?", max_new_tokens=0)
        with pytest.raises(InputError, match="max_new_tokens=0 is below 1"):
            reader.go_on(text, max_new_tokens=0, grow=False)


@pytest.mark.parametrize(
    ("share", "said"),
    [(0, "entries stand closer together than tokens do"), (0.1, "for it"),
     (1.0, "1,801 entries stand closer than text does and are read badly; look at less")],
)  # fmt: skip
def test_a_text_beyond_the_window_is_said_to_be_squeezed(
    vist: Vist, share: float, said: str
) -> None:
    vist.tokenizer.chat_template = CHAT
    answer = DocumentReader(vist).ask(f"{TEXT} " * 5, "strip3?", max_new_tokens=2, fixate=share)
    assert answer.report.note.startswith("the far part has 1,801 tokens and the model's window of")
    assert answer.report.note.endswith(said)
    fits = DocumentReader(vist, recent=0).ask(TEXT, "strip3?", max_new_tokens=2, fixate=share)
    assert fits.report.note == ""


def test_recent_must_be_positive(vist: Vist) -> None:
    with pytest.raises(InputError, match="recent=-1; keep 0 or more"):
        DocumentReader(vist, recent=-1)
    with pytest.raises(InputError, match="recent=0 leaves nothing to go on from"):
        DocumentReader(vist, recent=0).go_on(TEXT)


def test_a_folder_without_a_vist_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no readable vist\.json"):
        Vist.from_pretrained(tmp_path)
