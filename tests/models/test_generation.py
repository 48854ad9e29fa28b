"""Probabilities of answer tokens equal those of a plain forward pass; scores keep their places."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import foveate
from foveate.carve.engine.token_scores import step_scores
from foveate.errors import InputError
from foveate.models.load import load_vlm
from foveate.models.vlm import VisionLanguageModel
from foveate.tasks.reading import reading_questions

QUESTIONS = list(reading_questions(split="dev", num_pages=2, per_page=1))


@pytest.fixture(scope="module")
def vlm() -> VisionLanguageModel:
    return load_vlm("embedded")


def inputs_of(vlm: VisionLanguageModel, count: int = 1) -> dict[str, Any]:
    asked = QUESTIONS[:count]
    return vlm.inputs([q.question for q in asked], [q.image for q in asked])


def test_probabilities_equal_a_forward_pass(vlm: VisionLanguageModel) -> None:
    inputs = inputs_of(vlm)
    (found,) = vlm.generate(inputs, max_new_tokens=4, probabilities=True)
    assert found.tokens[-1].id == vlm.tokenizer.eos_token_id
    assert "".join(token.text for token in found.tokens).strip() == found.text
    ids = torch.cat([inputs["input_ids"], torch.tensor([found.ids])], dim=1)
    with torch.no_grad():
        logits = vlm.model(input_ids=ids, pixel_values=inputs["pixel_values"]).logits
    chances = logits[0, -len(found.ids) - 1 : -1].softmax(-1)
    for token, row in zip(found.tokens, chances, strict=True):
        assert token.probability == pytest.approx(float(row[token.id]), abs=1e-4)
        assert token.runner_up_probability == pytest.approx(float(row.topk(2).values[1]), abs=1e-4)


def test_a_row_has_the_probabilities_that_it_has_alone(vlm: VisionLanguageModel) -> None:
    both = vlm.generate(inputs_of(vlm, 2), max_new_tokens=4, probabilities=True)
    for question, answer in zip(QUESTIONS, both, strict=True):
        inputs = vlm.inputs(question.question, question.image)
        (alone,) = vlm.generate(inputs, max_new_tokens=4, probabilities=True)
        assert answer.ids == alone.ids == tuple(token.id for token in answer.tokens)
        assert [token.text for token in answer.tokens] == [token.text for token in alone.tokens]
        chances = [[token.probability for token in one.tokens] for one in (answer, alone)]
        assert chances[0] == pytest.approx(chances[1], abs=1e-4)


def test_what_has_no_answer_or_no_probabilities(vlm: VisionLanguageModel) -> None:
    with pytest.raises(InputError, match="max_new_tokens=0 is below 1"):
        vlm.answer(inputs_of(vlm), max_new_tokens=0)
    with pytest.raises(InputError, match="num_beams=2 mixes the tokens of several answers"):
        vlm.generate(inputs_of(vlm), probabilities=True, num_beams=2)


def test_scores_of_each_image_of_a_batch(vlm: VisionLanguageModel) -> None:
    """In a batch each image's scores are those it has alone."""
    method = foveate.PyramidDrop(keep_ratio=0.25)
    with foveate.attach(vlm.model, method) as run:
        answers = vlm.model.generate(**inputs_of(vlm, 2), max_new_tokens=1)
        both = [step_scores(run, image) for image in (0, 1)]
    assert len(answers) == 2
    asked = QUESTIONS[1]
    with foveate.attach(vlm.model, method) as run:
        vlm.model.generate(**vlm.inputs(asked.question, asked.image), max_new_tokens=1)
        alone = step_scores(run)
    assert len(alone) == len(both[1]) == 3
    for batched, single in zip(both[1], alone, strict=True):
        assert batched.layer == single.layer
        assert torch.equal(batched.kept, single.kept)
        torch.testing.assert_close(
            batched.scores["attention"], single.scores["attention"], atol=1e-5, rtol=0,
            equal_nan=True,
        )  # fmt: skip
    assert not torch.equal(both[0][0].kept, both[1][0].kept)
    assert torch.equal(alone[1].ranks["attention"] == 0, ~alone[0].kept)
    last = run.plans[0].plan
    assert last is not None
    assert alone[-1].kept.nonzero()[:, 0].tolist() == last.keep_idx[0].tolist()
    with pytest.raises(InputError, match="image 1 does not exist; the last prefill had 1"):
        step_scores(run, 1)
