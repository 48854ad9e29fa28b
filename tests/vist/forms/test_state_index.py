"""What a document's segments are found by where the LLM reads it: its states of each alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from foveate.errors import InputError
from foveate.vist.fixation.index import state_scores
from foveate.vist.forms import state_index
from foveate.vist.forms.state_index import state_entries
from foveate.vist.latents.memory import Memory
from foveate.vist.run.vist import Vist
from tests.vist import tiny_vist
from tests.vist.forms.test_forms import HEAD, logits, made
from tests.vist.tiny_vist import TEXT, assert_close, ids

TEXTS = [ids(7), ids(3), ids(12), torch.tensor([-1, -1]), ids(5)]


@pytest.mark.parametrize("family", ["llama", "qwen3", "smollm3"])
def test_entries_are_mean_states_halfway_up(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    vist = made(family)
    head = vist.embed(torch.tensor([HEAD]))
    found = state_entries(vist.anatomy, head, TEXTS)
    for text, entry in zip(TEXTS, found, strict=True):
        if (text < 0).all():
            assert not entry.any()
            continue
        whole = torch.cat([torch.tensor(HEAD), text])[None]
        with torch.no_grad():
            states = vist.model(whole, output_hidden_states=True).hidden_states
        half = states[len(vist.anatomy.layers) // 2]
        assert_close(entry, half[0, 1:].mean(dim=0))
        assert (entry - states[-1][0, 1:].mean(dim=0)).abs().max() > 1e-3  # no other layer
    monkeypatch.setattr(state_index, "ROWS_AT_A_TIME", 1)
    assert_close(state_entries(vist.anatomy, head, TEXTS), found)
    assert state_entries(vist.anatomy, head, []).shape == (0, found.shape[1])


def test_unread_tokens_do_not_count() -> None:
    vist = made()
    head = vist.embed(torch.tensor([HEAD]))
    text = ids(6)
    with_gap = torch.cat([text, torch.tensor([-1])])
    assert_close(
        state_entries(vist.anatomy, head, [with_gap]), state_entries(vist.anatomy, head, [text])
    )


def test_scores_find_what_is_alike_whatever_is_large_everywhere() -> None:
    torch.manual_seed(0)
    entries = torch.randn(9, 8)
    asked = entries[4] + 0.1 * torch.randn(8)
    # Large in every text, and larger in the question: without its own scale it would decide.
    loud = torch.full((9, 1), 500.0) + torch.randn(9, 1)
    entries = torch.cat([entries, loud], dim=1)
    asked = torch.cat([asked, torch.tensor([500.0])])
    scores = state_scores(entries, asked)
    assert int(scores.argmax()) == 4
    assert float(scores.min()) == 0
    assert sorted(scores.tolist())[4] == pytest.approx(0)  # nothing up to the middle one
    plain = torch.nn.functional.cosine_similarity(entries, asked[None])
    assert float(plain.max() - plain.min()) < 1e-3
    blank = torch.cat([entries, torch.zeros(1, 9)])
    assert state_scores(blank, asked).tolist() == pytest.approx([*scores.tolist(), 0.0])
    assert state_scores(entries[:1], asked).tolist() == [0.0]


def test_another_models_states_are_refused() -> None:
    with pytest.raises(InputError, match="width 8 and this model's states have 5; read the docu"):
        state_scores(torch.ones(3, 8), torch.ones(5))


@pytest.mark.parametrize("form", ["carved", "states"])
def test_a_question_finds_the_segment_that_says_it(form: str, tmp_path: Path) -> None:
    vist = made()
    memory = vist.read(TEXT, form=form, head_ids=HEAD)
    assert memory.segments is not None
    assert memory.tokens is not None
    assert memory.index is not None
    assert memory.index_side == "states"
    assert memory.index.shape == (len(memory.segments), tiny_vist.SIZES["hidden_size"])
    memory.save(tmp_path / "memory.safetensors")
    loaded = Memory.load(tmp_path / "memory.safetensors")
    assert loaded.index_side == "states"
    for held in (memory, loaded):
        with torch.no_grad(), vist.attach(held, fixate=0.3, question="the broken lamp") as run:
            vist.model(torch.tensor([[*HEAD, 7, 8]]))
        (look,) = run.report.looks
        assert any("index-states" in place.parts for place in look.places)


def test_latents_have_none() -> None:
    vist = made()
    memory = vist.read(TEXT)
    assert memory.index_side != "states"


def test_in_batches_as_single(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever else is asked beside it, a question looks at the same places."""
    vist: Vist = made()
    memory = vist.read(TEXT, form="states", share=0.1, head_ids=HEAD)
    tails = [ids(5), ids(5).flip(0)]
    questions = ["the green book", "boats from Bergen"]
    both: Any = torch.stack([torch.cat([torch.tensor(HEAD), tail]) for tail in tails])
    with torch.no_grad(), vist.attach([memory, memory], fixate=0.3, question=questions):
        together = vist.model(input_ids=both).logits[:, 1:]
    for row, tail, question in zip(together, tails, questions, strict=True):
        assert_close(row, logits(vist, memory, tail, fixate=0.3, question=question))
