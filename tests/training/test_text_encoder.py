"""The text encoder's training: data by number, falling loss, exact resume, and its scorer."""

from __future__ import annotations

import json
import random
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from foveate.errors import InputError
from foveate.models.llm_vocabulary import load_llm_vocabulary
from foveate.vist.encoder.labels import text_of
from foveate.vist.encoder.text_encoder import TextEncoderConfig, load_text_encoder
from foveate.vist.train.checkpoint import latest, read_snapshot
from foveate.vist.train.reading_loss import token_table
from training.text_encoder import score as score_reader
from training.text_encoder import train as train_reader
from training.text_encoder.data import Document, ReaderData, read_documents, typeset
from training.text_encoder.exact_strings import exact_strings

WORDS = ["the", "lamp", "of", "a", "keeper", "was", "lit", "at", "dusk", "and", "rain"]
CONFIG = TextEncoderConfig(
    patches=24, width=36, layers=1, heads=3, stem_width=24, slot_width=16, token_width=16
)
RECIPE = train_reader.Recipe(
    steps=12, decay_steps=4, batch=2, warmup=2, ramp=(2, 6), column_steps=6, chosen=16, negatives=8
)


@pytest.fixture(scope="module")
def llm(tmp_path_factory) -> Path:
    """A folder with a word-level tokenizer and one input embedding per word."""
    folder = tmp_path_factory.mktemp("llm")
    names = ["[UNK]", *dict.fromkeys(WORDS)]
    tokenizer = Tokenizer(WordLevel({w: i for i, w in enumerate(names)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    table = torch.randn(len(names), 16, generator=torch.Generator().manual_seed(0))
    save_file({"model.embed_tokens.weight": table}, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """Five short documents of one domain."""
    rng = random.Random(0)
    rows = [
        {"text": " ".join(rng.choices(WORDS, k=150)), "domain": "dusk", "source": str(i)}
        for i in range(5)
    ]
    path = tmp_path_factory.mktemp("corpus") / "dusk.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def data(llm, corpus) -> ReaderData:
    vocabulary = load_llm_vocabulary(llm)
    style = train_reader.TextEncoder(CONFIG).style
    return ReaderData(read_documents([corpus]), vocabulary.tokens_of, style=style)


@pytest.fixture(scope="module")
def table(llm) -> torch.Tensor:
    return token_table(load_llm_vocabulary(llm).embeddings)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, data, table):
    folder = tmp_path_factory.mktemp("run")
    held_out = train_reader.held_out_strips([Document("the lamp was lit " * 40, "x")], data, 2)
    recipe = replace(RECIPE, steps=60, decay_steps=20, muon_lr=0.05, adam_lr=0.01)
    train_reader.train_reader(
        folder, data, table, recipe, CONFIG, held_out=held_out, report_every=5
    )
    return [json.loads(line) for line in (folder / "reader.log").read_text().splitlines()]


def test_batches_are_drawn_by_number(data) -> None:
    first, again, other = data.batch(7, 3), data.batch(7, 3), data.batch(8, 3)
    assert torch.equal(first.pixels, again.pixels)
    assert first.texts == again.texts
    assert first.texts != other.texts


def test_targets_are_the_text_and_its_tokens(data) -> None:
    for number in range(12):
        batch = data.batch(number, 1)
        assert text_of(batch.characters.numpy()) == batch.texts[0]
        assert batch.tokens.max() < len(set(WORDS)) + 1
        assert (batch.tokens[~batch.patch_mask] == -1).all()


def test_typeset_changes_quotes_dashes_and_ellipses() -> None:
    typed = '"It\'s \'so\'," ("he") said -- 1990-95 - and left...'
    assert typeset(typed) == "“It’s ‘so’,” (“he”) said—1990–95 – and left…"


def test_a_word_cut_at_the_start_is_no_token(data) -> None:
    whole = "keeper lamp"
    ids = data.first_strip(whole, 2).tokens
    assert ids[ids >= 0].tolist() == data.tokenise("lamp")[0]


def test_exact_strings_have_their_length_and_vary() -> None:
    texts = {exact_strings(random.Random(seed), 200) for seed in range(20)}
    assert len(texts) == 20
    assert {len(text) for text in texts} == {200}


def test_the_loss_falls(trained) -> None:
    assert trained[-1]["step"] == 60
    assert trained[-1]["characters"] < 0.6 * trained[0]["characters"]
    assert trained[-1]["tokens"] < trained[0]["tokens"]
    assert 0 <= trained[-1]["token_top1"] <= 1
    assert trained[-1]["slot_accuracy"] > 0.3


def test_a_resumed_run_equals_one_run(tmp_path, data, table, monkeypatch) -> None:
    def run(name: str) -> dict[str, torch.Tensor]:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        train_reader.train_reader(folder, data, table, RECIPE, CONFIG)
        last = read_snapshot(latest(folder / "reader"))
        return {**last.weights, **{f"optimizer/{k}": v for k, v in last.optimizer.items()}}

    whole = run("whole")
    draw, stop = data.batch, 5

    def interrupted(number: int, size: int):
        if number == stop:
            raise KeyboardInterrupt
        return draw(number, size)

    monkeypatch.setattr(data, "batch", interrupted)
    # Save after every step, then stop before step 5.
    monkeypatch.setattr(time, "monotonic", iter(range(0, 10**6, 1000)).__next__)
    with pytest.raises(KeyboardInterrupt):
        run("parts")
    monkeypatch.undo()
    assert read_snapshot(latest(tmp_path / "parts" / "reader")).state["step"] == stop
    parts = run("parts")
    assert parts.keys() == whole.keys()
    assert [name for name in whole if not torch.equal(whole[name], parts[name])] == []


def test_a_word_is_right_when_all_its_slots_are() -> None:
    wanted = np.array([5, 0, 6, 2, 7, 0, 0, 8])  # "ab c d" less its last blank
    best = wanted.copy()
    assert score_reader._whole_words(best, wanted, "ab cd") == [True, True]
    best[5] = 9  # a character read between c and d
    assert score_reader._whole_words(best, wanted, "ab cd") == [True, False]
    assert score_reader._whole_words(best, wanted, "ab\u0301 cd") == []


def test_train_and_score_from_the_command_line(tmp_path, llm, corpus) -> None:
    train_reader.main(
        f"--data {corpus} --held-out {corpus} --llm {llm} --folder {tmp_path}/run --out "
        f"{tmp_path}/reader --steps 1 --batch 1 --chosen 8 --negatives 4".split()
    )
    assert load_text_encoder(tmp_path / "reader").config.token_width == 16
    assert not (tmp_path / "run" / "reader.log").exists()  # fewer steps than a report
    score_reader.main(
        f"--encoder {tmp_path}/reader --data {corpus} --llm {llm} --strips 2 "
        f"--out {tmp_path}/reader-score".split()
    )
    report = json.loads((tmp_path / "reader-score.json").read_text())
    row = report["scores"]["dusk"]
    assert (row["documents"], row["units"], row["unit"]) == (5, 2, "document")
    low, value, high = (row["character_accuracy"][key] for key in ("low", "value", "high"))
    assert low <= value <= high <= 1
    assert str(tmp_path) not in json.dumps(report)
    page = (tmp_path / "reader-score.md").read_text()
    assert "| dusk | 5 | " in page
    assert "numbers of 8 digits" in page


def test_bad_files(tmp_path, llm) -> None:
    with pytest.raises(InputError, match="is no file; give JSONL or plain text"):
        read_documents([tmp_path / "none.txt"])
    (tmp_path / "a.jsonl").write_text('{"body": "x"}\n')
    with pytest.raises(InputError, match="line 1: 'text' is missing or not a text"):
        read_documents([tmp_path / "a.jsonl"])
    (tmp_path / "b.txt").write_text("")
    with pytest.raises(InputError, match="hold no text"):
        read_documents([tmp_path / "b.txt"])
    with pytest.raises(InputError, match="holds no input embeddings"):
        load_llm_vocabulary(tmp_path)
