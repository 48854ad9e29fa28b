"""Training of the index: questions know their places, and what is learned is what is asked."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from torch import Tensor

from foveate.tasks.wordnet import WordNet
from foveate.vist.latents.index_head import IndexConfig, IndexHead
from foveate.vist.train.pve import PveConfig
from tests.tasks.test_wordnet import folder
from training.vist_index.questions import as_question, document
from training.vist_index.train import Cache, Pairs, train

__all__ = ["folder"]  # a fixture

SENTENCE = "The old boat sailed from Bergen with 47 barrels of salted herring."


def test_a_question_is_made_of_its_sentence_and_of_words_alike(folder: Path) -> None:
    words = WordNet(folder)
    asked = [as_question(SENTENCE, words, random.Random(seed)) for seed in range(200)]
    said = " ".join(filter(None, asked)).lower()
    assert all(one.endswith("?") for one in asked if one)
    assert "vessel" in said  # what a boat is too
    assert "herring" in said
    assert as_question("It was so.", words, random.Random(0)) is None


def test_questions_stand_where_the_document_says(folder: Path) -> None:
    entries = [
        ("Lamp", "A thing that gives light at sea. Keepers light it at night."),
        ("", SENTENCE),
    ]
    for seed in range(5):
        made = document(entries, WordNet(folder), random.Random(seed))
        kinds = {q["kind"]: made["text"][q["start"] : q["stop"]] for q in made["questions"]}
        assert "gives light" in kinds["term"]
        assert all(0 <= q["start"] < q["stop"] <= len(made["text"]) for q in made["questions"])


# --- the loop, on pictures that are a fixed map of their words ---

VOCABULARY, DOCUMENTS, SEGMENTS, WORDS = 40, 12, 8, 5


def made_up() -> tuple[Cache, Tensor]:
    lot = torch.Generator().manual_seed(0)
    table = torch.randn(VOCABULARY, 16, generator=lot)
    turn = torch.randn(16, 10, generator=lot)
    count = DOCUMENTS * SEGMENTS
    words = torch.randint(VOCABULARY, (count, WORDS), generator=lot)
    start = torch.arange(count + 1)
    return Cache(
        features=Pairs(rows=(table[words.flatten()] @ turn).half(), start=start * WORDS),
        words=Pairs(rows=words.flatten(), start=start * WORDS),
        questions=Pairs(rows=words[:, :2].flatten(), start=start * 2),
        target=torch.arange(count),
        documents=torch.arange(DOCUMENTS + 1) * SEGMENTS,
        asked=torch.arange(DOCUMENTS + 1) * SEGMENTS,
        pictured=torch.arange(DOCUMENTS - 4),
    ), table


def found_of_new_documents(head: IndexHead, cache: Cache, table: Tensor) -> float:
    """Share of the questions about documents without pictures in training that find their own."""
    first, last = (DOCUMENTS - 4) * SEGMENTS, DOCUMENTS * SEGMENTS
    segments = torch.arange(first, last)
    features, own = cache.features.of(segments)
    with torch.no_grad():
        seen = head.of_pictures(features.float(), own, len(segments))
        ids, text = cache.questions.of(segments)
        asked = head.of_words(table[ids], text, len(segments))
    scores = (asked @ seen.T).view(4, SEGMENTS, 4, SEGMENTS)
    best = torch.stack([scores[i, :, i].argmax(dim=1) for i in range(4)])
    return float((best == torch.arange(SEGMENTS)).float().mean())


@pytest.mark.parametrize("mask", ["frequency", "random", "none"])
def test_pictures_of_new_documents_are_found(mask: str) -> None:
    cache, table = made_up()
    torch.manual_seed(1)
    head = IndexHead(
        IndexConfig(input_width=10, embedding_width=16, inner=32, picture_inner=32, width=24)
    )
    before = found_of_new_documents(head, cache, table)
    pve = PveConfig(mask=mask, temperature=0.1, symmetric=True)  # type: ignore[arg-type]
    train(head, cache, table, pve, words_steps=30, steps=90, say=lambda text: None)
    after = found_of_new_documents(head, cache, table)
    assert before < 0.4
    assert after > 0.7, f"{before:.2f} -> {after:.2f}"


def test_groups_of_flat_rows() -> None:
    pairs = Pairs(rows=torch.arange(10), start=torch.tensor([0, 3, 3, 7, 10]))
    rows, own = pairs.of(torch.tensor([2, 1, 0]))
    assert rows.tolist() == [3, 4, 5, 6, 0, 1, 2]
    assert own.tolist() == [0, 0, 0, 0, 2, 2, 2]
