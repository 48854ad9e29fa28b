"""Readers of memories of every form: budgets, oracles; a plain cache is an attached run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from foveate.errors import InputError
from foveate.vist.config import CarvedConfig
from foveate.vist.eval.arms import FORM_ARMS, Subjects, facts_of
from foveate.vist.eval.context import FarContext
from foveate.vist.eval.fixation_subject import FixationSubject
from foveate.vist.eval.form_subject import FormSubject, form_readers
from foveate.vist.eval.icl_arms import icl_arms
from foveate.vist.eval.subjects import RawSubject, VistSubject
from foveate.vist.run.vist import Vist
from tests.vist import tiny_vist as tiny
from tests.vist.eval.test_fixation_subject import FAR
from tests.vist.eval.test_subjects import OPTIONS, PROMPT, near, tokenizer


@pytest.fixture(scope="module")
def skimmer() -> VistSubject:
    plain = tiny.vist(tiny.model(), "lora")
    config = replace(plain.config, carved=CarvedConfig(layer=2, share=0.5, lora_rank=0))
    return VistSubject(Vist(plain.model, tokenizer(), plain.encoder, config))


@pytest.fixture
def far(skimmer: VistSubject) -> FarContext:
    return FarContext(source=skimmer.encode(FAR), question="w33_ w34_")


def test_every_arm_has_a_reader(skimmer: VistSubject) -> None:
    readers = form_readers(skimmer)
    assert set(readers) == set(FORM_ARMS)
    raw = RawSubject(skimmer.model, skimmer.tokenizer)
    subjects = Subjects(raw=raw, vist=skimmer, forms=readers)
    names = icl_arms(("states+look", "states+look-shuffled", "carved"), subjects, (0.25, 0.4), 1)
    assert names == (
        "none", "carved@0.25", "carved@0.4", "states+look@0.25", "states+look@0.4",
        "states+look-shuffled@0.25", "states+look-shuffled@0.4",
    )  # fmt: skip
    with pytest.raises(InputError, match="cannot run the arms states; leave them out"):
        icl_arms(("states",), replace(subjects, forms={}), (0.4,), 1)


def test_kept_answers_depend_on_what_made_them() -> None:
    facts = {"model": "m", "parts_sha256": "p", "fixation": {}, "forms": {"cut": 2}}
    assert facts_of("raw-shuffled", facts) == facts_of("nearest@0.4", facts) == {"model": "m"}
    assert facts_of("states+look-shuffled@0.4", facts) == facts_of("carved@0.4", facts) == facts
    without = {key: value for key, value in facts.items() if key != "forms"}
    assert facts_of("vist", facts) == facts_of("fixate@0.4", facts) == without


def test_forms_that_a_vist_has_not() -> None:
    no_cut: Any = VistSubject(tiny.vist(tiny.model(), "lora"), "w1")
    assert set(form_readers(no_cut)) == {"latents+look", "states", "states+look"}
    assert form_readers(VistSubject(tiny.vist(tiny.model(), "cross"), "w1")) == {}


@pytest.mark.parametrize("arm", [*FORM_ARMS])
def test_the_budget_counts_every_entry(skimmer: VistSubject, far: FarContext, arm: str) -> None:
    for share in (0.2, 0.4, 0.6):
        reader = form_readers(skimmer)[arm](share)
        assert 0 < reader.num_entries(far) <= round(share * len(far.ids))


@pytest.mark.parametrize("arm", [*FORM_ARMS])
def test_all_of_it_is_raw_text(skimmer: VistSubject, far: FarContext, arm: str) -> None:
    raw = RawSubject(skimmer.model, skimmer.tokenizer)
    want = [s.nats for s in raw.option_nll(far, PROMPT, OPTIONS)]
    got = [s.nats for s in form_readers(skimmer)[arm](1.0).option_nll(far, PROMPT, OPTIONS)]
    assert got == [near(nats) for nats in want]
    # The control: less than all is something else.
    part = [s.nats for s in form_readers(skimmer)[arm](0.3).option_nll(far, PROMPT, OPTIONS)]
    assert part != pytest.approx(want, rel=1e-4)


@pytest.mark.parametrize("form", ["latents", "carved", "states"])
def test_a_plain_cache_is_an_attached_run(skimmer: VistSubject, far: FarContext, form: str) -> None:
    ends = FormSubject(skimmer.vist, form, skimmer=skimmer)
    looking = FixationSubject(ends, 0.4, floor=0.0, skim=0.25)
    found = looking.option_nll(far, PROMPT, OPTIONS)
    asked = list(skimmer.encode(PROMPT).ids)
    for score, option in zip(found, OPTIONS, strict=True):
        own = list(skimmer.encode(option).ids)
        text = torch.tensor([[*skimmer.head_ids, *asked, *own]])
        with torch.no_grad(), looking._looking([far]):
            logits = skimmer.model(text, use_cache=False).logits[0, -len(own) - 1 : -1]
        nats = torch.nn.functional.cross_entropy(logits, torch.tensor(own), reduction="sum")
        assert score.nats == near(float(nats))
    latents, raw_text = looking._looked[looking._key(far)], looking.num_entries(far)
    assert latents == raw_text


def test_more_places_are_looked_at_than_for_a_question(
    skimmer: VistSubject, far: FarContext
) -> None:
    """All demonstrations that fit, beside the ends of the others."""
    reader: Any = form_readers(skimmer)["states+look"](0.5)
    with reader._looking([far]):
        skimmer.model(torch.tensor([[1, 7]]), use_cache=False)
    (look,) = skimmer.vist.report.looks
    assert len(look.places) > 1
    assert look.num_latents > 0
