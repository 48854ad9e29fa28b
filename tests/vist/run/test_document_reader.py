"""A long text read with a Vist: what is raw, what is latents, and what it took."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from foveate.errors import InputError
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
    found = DocumentReader(vist, recent=20).go_on(TEXT, max_new_tokens=5)
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
    found = DocumentReader(vist, recent=20).go_on(TEXT, max_new_tokens=5, compare=False)
    assert found.report.answer_before is None
    offsets = vist.tokenizer(TEXT, return_offsets_mapping=True)["offset_mapping"]
    first, border = offsets[0][1], offsets[-20][0]
    memory = vist.read(TEXT[first:border])
    ids = vist.tokenizer(TEXT, return_tensors="pt")["input_ids"]
    prompt = torch.cat([ids[:, :1], ids[:, -20:]], dim=1)
    with vist.attach(memory):
        out = llama.generate(prompt, max_new_tokens=5, do_sample=False)
    assert found.text == vist.tokenizer.decode(out[0, 21:]).strip()


def test_a_question_sits_behind_the_document(vist: Vist, monkeypatch: pytest.MonkeyPatch) -> None:
    vist.tokenizer.chat_template = CHAT
    seen: dict[str, Any] = {}
    reader = DocumentReader(vist, recent=10)

    def record(prompt: Any, count: int, memory: Any = None, memory_at: int = 1) -> str:
        seen[memory is None] = (prompt, memory_at)
        return ""

    monkeypatch.setattr(reader, "_generate", record)
    report = reader.ask(TEXT, "which strip?").report
    prompt, memory_at = seen[False]
    before, after = len(reader._ids("w1 w2")), len(reader._ids("\n\nwhich strip? w4"))
    assert memory_at == before
    assert len(prompt) == before + 10 + after == report.raw_tokens


def test_a_short_text_stays_raw(vist: Vist) -> None:
    found = DocumentReader(vist, recent=500).go_on("w5 w6 w7", max_new_tokens=2)
    assert found.report.latents == 0
    assert "3 tokens and 500 stay raw" in found.report.note
    assert "nothing to compress" in str(found.report)


def test_raw_text_that_does_not_fit_is_not_run(vist: Vist, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Vist, "window", property(lambda self: 200))
    report = DocumentReader(vist, recent=20).go_on(TEXT, max_new_tokens=2).report
    assert report.seconds_before is None
    assert "does not fit the model's window of 200" in report.note


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


def test_recent_must_be_positive(vist: Vist) -> None:
    with pytest.raises(InputError, match="recent=0; keep at least 1"):
        DocumentReader(vist, recent=0)


def test_a_folder_without_a_vist_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no readable vist\.json"):
        Vist.from_pretrained(tmp_path)
