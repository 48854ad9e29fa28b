"""A language model's vocabulary as a visual dictionary, kept on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from foveate.vist.config import FusionConfig, GlanceConfig, VistConfig
from foveate.vist.run import vocabulary
from foveate.vist.run.vist import Vist
from foveate.vist.run.vocabulary import spellings
from tests.vist import tiny_vist

TEXT = "the eye reads strips of text, the eye reads them again; 17 naïve words — and more\n" * 20


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<end>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator([TEXT], trainer)
    return tf.PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<end>")


@pytest.fixture
def pointed(tokenizer: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Vist:
    monkeypatch.setattr(vocabulary, "default_cache", lambda: tmp_path)
    torch.manual_seed(5)
    llm = tiny_vist.model("llama", vocab_size=400)
    width = llm.config.hidden_size
    glances = GlanceConfig(input_width=tiny_vist.FEATURES, width=width, inner=16, heads=2, layers=0,
                           key_width=8, num_latents=8, run=4, pack_width=8)  # fmt: skip
    config = VistConfig(resampler=glances, fusion=FusionConfig(lora_rank=2, projection="none"))
    return Vist(llm, tokenizer, tiny_vist.TinyEncoder(), config)


def test_spellings_are_what_a_text_shows(tokenizer: Any) -> None:
    texts = spellings(tokenizer, 400)
    assert len(texts) == 400
    assert texts[tokenizer.convert_tokens_to_ids("<end>")] is None
    assert texts[350:] == [None] * 50
    ids = tokenizer(" the eye\n")["input_ids"]
    assert "".join(texts[i] or "?" for i in ids) == " the eye\n"
    # A lone byte of a character of several bytes has no spelling.
    first_byte = tokenizer("—")["input_ids"]
    if len(first_byte) > 1:
        assert texts[first_byte[0]] is None


def test_reading_a_document_draws_the_vocabulary_once(
    pointed: Vist, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = pointed.read(TEXT)
    assert memory.num_latents < memory.num_tokens
    (file,) = tmp_path.glob("dictionary-*.safetensors")
    assert file.stat().st_size > 0
    pointed.parts.resampler.dictionary = None  # type: ignore[union-attr]

    def refuse(*args: object) -> None:
        raise AssertionError("drawn twice")

    monkeypatch.setattr(vocabulary, "pictures_of", refuse)
    again = pointed.read(TEXT)
    assert torch.equal(again.latents, memory.latents)


def test_other_weights_make_another_dictionary(pointed: Vist, tmp_path: Path) -> None:
    pointed.learn_vocabulary()
    resampler = pointed.parts.resampler
    with torch.no_grad():
        resampler.get_parameter("read.weight").mul_(-1)
    resampler.dictionary = None  # type: ignore[union-attr]
    pointed.learn_vocabulary()
    assert len(list(tmp_path.glob("dictionary-*.safetensors"))) == 2


def test_a_pointed_memory_is_read_by_the_model(pointed: Vist) -> None:
    memory = pointed.read(TEXT)
    prompt = pointed.tokenizer("the eye reads", return_tensors="pt")["input_ids"]
    with pointed.attach(memory):
        out = pointed.model.generate(prompt, max_new_tokens=4, do_sample=False, pad_token_id=0)
    assert out.shape[1] == prompt.shape[1] + 4
