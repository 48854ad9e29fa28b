"""A reader that looks again: everything looked at is raw text, nothing is the latents alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from foveate.errors import InputError
from foveate.vist.eval import fixation_subject
from foveate.vist.eval.arms import facts_of
from foveate.vist.eval.context import FarContext
from foveate.vist.eval.fixation_subject import FixationSubject, looking_facts
from foveate.vist.eval.subjects import RawSubject, VistSubject
from foveate.vist.fixation.placing import Placing, closed_up
from foveate.vist.latents.memory import MemoryBatch
from foveate.vist.train.tiny_models import tiny_tokenizer
from tests.vist import tiny_vist as tiny
from tests.vist.encoder.sighted import SightedEncoder
from tests.vist.eval.test_subjects import OPTIONS, PROMPT, near, tokenizer
from tests.vist.run.test_read_document import pointed

FAR = "\n\n".join(" ".join(f"w{5 + (7 * row + i) % 90}_" for i in range(10)) for row in range(8))


@pytest.fixture(scope="module", params=["llama", "qwen3"])
def skimmer(request: pytest.FixtureRequest) -> VistSubject:
    vist = tiny.vist(tiny.model(request.param), "lora")
    vist.tokenizer = tokenizer()
    return VistSubject(vist)


@pytest.fixture
def far(skimmer: VistSubject) -> FarContext:
    return FarContext(source=skimmer.encode(FAR), question="w33_ w34_")


def test_all_of_it_is_raw_text(skimmer: VistSubject, far: FarContext) -> None:
    raw = RawSubject(skimmer.model, skimmer.tokenizer)
    looking = FixationSubject(skimmer, 1.0)
    assert looking.num_entries(far) == len(far.ids) == raw.num_entries(far)
    ours = looking.option_nll(far, PROMPT, OPTIONS)
    theirs = raw.option_nll(far, PROMPT, OPTIONS)
    assert [s.nats for s in ours] == [near(s.nats) for s in theirs]
    assert looking.answer(far, PROMPT, 6) == raw.answer(far, PROMPT, 6)


@pytest.mark.parametrize("placing", ["twice", "close", "apart"])
def test_places_are_raw_text_where_they_stand(
    skimmer: VistSubject, far: FarContext, placing: Placing
) -> None:
    looking = FixationSubject(skimmer, 0.5, placing=placing)
    with looking._looking([far]):
        skimmer.model(torch.tensor([[1, 7]]), use_cache=False)
    (look,) = skimmer.vist.report.looks
    kept = [t for place in look.places for t in range(place.start, place.stop)]
    size, again = len(far.ids), len(kept) if placing == "twice" else 0
    assert (look.placing, look.num_latents, look.num_again) == (placing, 0, again)
    assert looking.num_entries(far) == look.num_raw == len(kept) + again <= 0.5 * size
    part = far.keep(kept * 2 if again else kept)
    assert part is not None
    raw = RawSubject(skimmer.model, skimmer.tokenizer)

    def nats(start: int) -> list[float]:
        """Of the same tokens, read as raw text from a position on."""
        places = kept if placing == "apart" else range(start, start + len(part.ids))
        moved = replace(part, positions=tuple(places), span=size)
        return [s.nats for s in raw.option_nll(moved, PROMPT, OPTIONS)]

    found = [s.nats for s in looking.option_nll(far, PROMPT, OPTIONS)]
    assert found == [near(n) for n in nats(size - len(part.ids))]
    if placing != "apart":  # the control: a position matters
        assert found != [near(n) for n in nats(0)]


@pytest.mark.parametrize(
    ("span", "wanted"),
    [(500, [497, 498, 499]), (2, [0, 2 / 3, 4 / 3])],
    ids=["a short window", "more entries than positions"],
)
def test_close_stands_before_the_question_in_a_short_window_too(
    span: int, wanted: list[float]
) -> None:
    batch = closed_up(
        MemoryBatch(
            latents=torch.zeros(1, 3, 4),
            mask=torch.ones(1, 3, dtype=torch.bool),
            positions=torch.tensor([[5.0, 90.0, 300.0]]),
            num_tokens=(1000,),
        ),
        span,
    )
    scaled = batch.positions * span / 1000
    assert scaled[0].tolist() == pytest.approx(wanted, abs=1e-3)


def test_the_budget_counts_every_entry(skimmer: VistSubject, far: FarContext) -> None:
    for share in (0.1, 0.3, 0.6):
        looking = FixationSubject(skimmer, share)
        assert 0 < looking.num_entries(far) <= share * len(far.ids)
        # Counted before it is asked and after it was, the same.
        looking.answer(far, PROMPT, 2)
        assert FixationSubject(skimmer, share).num_entries(far) == looking.num_entries(far)
    assert looking.option_nll(far, PROMPT, OPTIONS) != skimmer.option_nll(far, PROMPT, OPTIONS)


def test_each_question_looks_elsewhere(skimmer: VistSubject, far: FarContext) -> None:
    looking = FixationSubject(skimmer, 0.3)
    other = replace(far, question="w60_ w61_")
    first = looking.option_nll(far, PROMPT, OPTIONS)
    assert looking.option_nll(other, PROMPT, OPTIONS) != first
    assert looking.option_nll(far, PROMPT, OPTIONS) == first


@pytest.mark.parametrize("together", [1, 10_000])
def test_batch_is_single(
    skimmer: VistSubject, far: FarContext, together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fixation_subject, "TOGETHER", together)
    looking = FixationSubject(skimmer, 0.3)
    fars = [far, replace(far, question="w60_ w61_"), None]
    prompts = [PROMPT, "w7_", "w9_ w10_"]
    said = looking.answers(fars, prompts, 6)
    assert said == [looking.answer(f, p, 6) for f, p in zip(fars, prompts, strict=True)]
    assert said[2] == skimmer.answer(None, prompts[2], 6)


def test_kept_answers_depend_on_how_places_stand() -> None:
    facts = {"model": "m", "fixation": looking_facts()}
    assert facts["fixation"]["placing"] == "twice"
    assert looking_facts("states")["placing"] == "apart"
    for arm in ("fixate@0.1", "fixate-shuffled@0.1", "once@0.1", "pictures@0.1", "bm25-read@0.1"):
        assert facts_of(arm, facts) == facts
    for arm in ("raw", "bm25@0.1", "bm25-twice@0.1"):
        assert facts_of(arm, facts) == {"model": "m"}


def test_without_a_question(skimmer: VistSubject, far: FarContext) -> None:
    looking: Any = FixationSubject(skimmer, 0.3)
    with pytest.raises(InputError, match=r"needs FarContext\(question=...\)"):
        looking.answer(replace(far, question=None), PROMPT, 2)
    with pytest.raises(InputError, match="nothing to look for"):
        looking.nll([far], [()], [(1,)])


def test_pictures_are_looked_at_as_they_were_read() -> None:
    """A reader without faults looks at what the source says; one with a fault does not."""
    text = "the eye reads strips of text, the eye reads them again; 17 words. And more!\n" * 6
    words = tiny_tokenizer([text])
    found = []
    for swaps in ({}, {";": ","}):
        skimmer = VistSubject(pointed(words, SightedEncoder(text, swaps=swaps)))
        far = FarContext(source=skimmer.encode(text), question="how many words?")
        source = FixationSubject(skimmer, 0.5)
        pictures = FixationSubject(skimmer, 0.5, tokens="read")
        held = pictures.memory(far).tokens
        assert held is not None
        assert (held.tolist() == list(far.ids)) is not bool(swaps)
        assert pictures.num_entries(far) <= 0.5 * len(far.ids)
        assert (pictures.as_read(far).text == text) is not bool(swaps)
        found.append(
            [s.option_nll(far, "the eye", [" reads", " words"]) for s in (source, pictures)]
        )
    (source, pictures), (_, misread) = found
    assert pictures == source
    assert misread != source
