"""Which segment a question means: recall, arms that can fail, questions in other words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from foveate.errors import InputError
from foveate.models.token_offsets import tokenise
from foveate.tasks.passages import PlacedDocument, PlacedQuestion
from foveate.tasks.wordnet import WordNet
from foveate.vist.eval.paraphrase import masked, of_meanings, other_words
from foveate.vist.eval.retrieval import RetrievalSettings, evaluate_retrieval, is_found
from foveate.vist.eval.segment_scores import Scorers, SegmentedText, standard
from foveate.vist.fixation.choose import join_scores
from foveate.vist.fixation.index import above_middle, index_scores
from foveate.vist.fixation.lexical import Bm25
from foveate.vist.latents.index_head import IndexConfig, IndexHead
from foveate.vist.run.vist import Vist
from tests.tasks.test_wordnet import folder
from tests.vist import tiny_vist
from tests.vist.encoder.sighted import SightedEncoder
from tests.vist.fixation.test_index import make_head, word_tokenizer

__all__ = ["folder"]  # a fixture

TEXT = (
    "The harbour master wrote a green book. The lamp of the north tower is broken. "
    "Nobody feeds the grey cat. The museum sold its violin. Rain came late in May."
)


def question(asked: str, answer: str) -> PlacedQuestion:
    start = TEXT.index(answer)
    return PlacedQuestion(
        question=asked, spans=((start, start + len(answer)),), cluster=answer, id=answer
    )


DOCUMENT = PlacedDocument(
    text=TEXT,
    questions=(
        question("Who wrote the green book?", "harbour master"),
        question("Which lamp is broken?", "north tower"),
        question("What did the museum sell? A violin?", "violin"),
    ),
)


@pytest.fixture(scope="module")
def scorers() -> Scorers:
    torch.manual_seed(2)
    sizes = {"input_width": tiny_vist.FEATURES, "embedding_width": 48}
    heads = {
        name: IndexHead(IndexConfig(**sizes, picture_inner=8, inner=8, heads=2, width=6)).eval()
        for name in ("", "other")
    }
    encoder = tiny_vist.TinyEncoder()
    return Scorers(tiny_vist.model(), tiny_vist.tokenizer(), encoder, heads, layer=2)


def test_recall_counts_the_best_of_a_share() -> None:
    scores = np.array([0.1, 0.9, 0.5, 0.2])
    assert is_found(scores, [2], [0.25, 0.5, 1.0]) == [False, True, True]
    assert is_found(scores, [0, 2], [0.25, 0.5]) == [False, True]
    # At least one segment may be looked at; ties go to the earlier one.
    assert is_found(np.zeros(4), [0], [0.01]) == [True]
    assert is_found(np.zeros(4), [1], [0.01]) == [False]


def test_words_find_their_segment_and_every_arm_has_its_row(scorers: Scorers) -> None:
    settings = RetrievalSettings(shares=(0.2, 1.0))
    result = evaluate_retrieval({"asked": [DOCUMENT]}, scorers, settings)
    rows = {(row["arm"], row["share"]): row for row in result.rows}
    assert {arm for arm, _ in rows} == set(scorers.names)
    assert "index-other" in scorers.names
    assert rows["bm25", 0.2]["recall"]["value"] == 1.0
    assert all(row["recall"]["value"] == 1.0 for (_, share), row in rows.items() if share == 1.0)
    assert rows["index", 0.2]["minus_bm25"]["value"] <= 0
    assert "| bm25 |" in result.markdown()


@pytest.mark.parametrize(("tokens", "arm"), [("source", "index-words"), ("read", "index")])
def test_the_index_arms_score_as_fixation_does(scorers: Scorers, tokens: Any, arm: str) -> None:
    encoder, words = SightedEncoder(TEXT), word_tokenizer(TEXT)
    plain = tiny_vist.vist(scorers.model).config
    config = replace(plain, resampler=replace(plain.resampler, input_width=encoder.width))
    vist = Vist(scorers.model, words, encoder, config)
    head = vist.parts.index = make_head(input_width=encoder.width)
    scorers = Scorers(scorers.model, words, encoder, {"": head})
    memory = vist.read(TEXT, tokens=tokens)
    text = SegmentedText.of(TEXT, words)
    found = scorers.scores(text, ["Which lamp?"], (arm, f"bm25+{arm}"))
    logits = torch.from_numpy(found[arm][0]) / head.config.temperature
    asked = vist.embed(torch.from_numpy(tokenise(scorers.tokenizer, "Which lamp?").ids))
    want = index_scores(memory, head, asked)
    torch.testing.assert_close(above_middle(logits).float(), want, atol=1e-4, rtol=1e-4)
    assert bool((want > 0).any())
    told = {f"index-{memory.index_side}": want.double().numpy()}
    joined = join_scores({"words": Bm25(text.texts).scores("Which lamp?"), **told})
    np.testing.assert_allclose(found[f"bm25+{arm}"][0], joined, atol=1e-4)


def test_states_are_those_of_a_layer_and_of_each_row_alone(scorers: Scorers) -> None:
    rows = [[5, 6, 7], [8, 9, 10, 11, 12]]
    together = scorers._states(rows)
    hidden = scorers.model(torch.tensor([[1, *rows[0]]]), output_hidden_states=True).hidden_states
    want = hidden[scorers.layer][0, 1:].mean(dim=0)
    gap = (together[0] - want).abs().max()
    assert float(gap) < 0.02 * float(want.abs().max())  # bfloat16
    torch.testing.assert_close(scorers._states(rows[:1])[0], together[0], rtol=0.03, atol=0.02)


def test_standard_columns() -> None:
    rows = standard(torch.randn(50, 4) * 3 + 2)
    torch.testing.assert_close(rows.mean(dim=0), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(rows.std(dim=0, unbiased=False), torch.ones(4))


def test_segments_that_hold_a_span() -> None:
    text = SegmentedText.of(TEXT, tiny_vist.tokenizer())
    start = TEXT.index("tower is")
    assert text.holding([(start, start + 5)]) == [1]
    assert text.holding([(start, TEXT.index("grey"))]) == [1, 2]
    assert "".join(text.texts) == TEXT


def test_unknown_arms_and_empty_kinds_are_refused(scorers: Scorers) -> None:
    with pytest.raises(InputError, match="unknown arms crystal; use random"):
        evaluate_retrieval({"a": [DOCUMENT]}, scorers, RetrievalSettings(arms=("crystal",)))
    nothing = PlacedDocument(text=TEXT, questions=())
    with pytest.raises(InputError, match="no questions of the kind 'a'"):
        evaluate_retrieval({"a": [nothing]}, scorers, RetrievalSettings())
    with pytest.raises(InputError, match="use numbers above 0 and at most 1"):
        RetrievalSettings(shares=(0.0,))


# --- other words ---


def test_masked_questions_share_no_root_with_their_place() -> None:
    said = masked("Which broken lamps were travelling north by water?", ["The lamp is north."])
    assert said == "Which broken were travelling by water?"
    assert masked("Which lamp?", ["The lamp is red."]) is None


def test_shared_words_are_replaced_or_left_out(folder: Path) -> None:
    known: Any = WordNet(folder)
    asked = "Which boats crossed the broad ocean northwards?"
    said = other_words(asked, ["Two boats sailed northwards."], known)
    assert said == "Which vessel crossed the broad ocean ?"
    assert other_words(asked, ["It went northwards."], known) is None  # nothing to replace


def test_meanings_ask_for_the_sentence_that_uses_the_word(folder: Path) -> None:
    (made,) = of_meanings(WordNet(folder), num_documents=2, size=5)
    assert made.questions
    for asked in made.questions:
        (start, stop) = asked.spans[0]
        assert made.text[start:stop] in ("The boat came home at last.", "The lamp burns all night.")
