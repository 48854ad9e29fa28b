"""Which questions are drawn, and what a lost one is."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import foveate
from foveate.carve.compare.answering import Answering
from foveate.carve.engine.image_cache import ImageCache
from foveate.carve.tune.asking import Asking, losses_of
from foveate.carve.tune.settings import TuneSettings, draw_units
from foveate.carve.tune.tune import check_questions, tune
from foveate.core.budget import Budget
from foveate.errors import InputError
from foveate.measure.parts import Parts
from foveate.models.continuations import score_continuations
from foveate.models.load import load_vlm
from foveate.models.vlm import VisionLanguageModel
from foveate.tasks.named import load_questions
from foveate.tasks.question import NO_ANSWER, Question
from tests.cli.vlm_folder import save_tiny_vlm


@pytest.fixture(scope="module")
def vlm(tmp_path_factory: pytest.TempPathFactory) -> VisionLanguageModel:
    return load_vlm(save_tiny_vlm(tmp_path_factory.mktemp("models") / "tiny"))


def settings(**changes: Any) -> TuneSettings:
    values: dict[str, Any] = {
        "max_loss": 0.5,
        "methods": ("divprune",),
        "budgets": (Budget(keep_ratio=0.5),),
        "max_new_tokens": 2,
    }
    return TuneSettings(**{**values, **changes})


def question(image: str, number: int, answer: str = "yes") -> Question:
    return Question(
        image=Image.new("RGB", (8, 8)),
        question="what?",
        answers=(answer,),
        kind="a",
        image_id=image,
        id=f"{image}-{number}",
    )


QUESTIONS = [question(image, n) for image in "abcde" for n in range({"a": 5}.get(image, 3))]


def test_images_are_drawn_with_all_their_questions() -> None:
    units = draw_units(QUESTIONS, settings())
    assert sorted(unit[0].image_id for unit in units) == list("abcde")
    assert all(len({q.image_id for q in unit}) == 1 for unit in units)
    assert sorted(q.id for unit in units for q in unit) == sorted(q.id for q in QUESTIONS)
    assert [len(unit) for unit in draw_units(QUESTIONS, settings(per_image=2))] == [2] * 5


def test_a_file_is_drawn_question_by_question() -> None:
    units = draw_units(QUESTIONS, settings(claim="file"))
    assert [len(unit) for unit in units] == [1] * len(QUESTIONS)
    assert sorted(unit[0].id for unit in units) == sorted(q.id for q in QUESTIONS)


def test_the_order_is_the_seed_s() -> None:
    def order(seed: int) -> list[str]:
        return [q.id for unit in draw_units(QUESTIONS, settings(seed=seed)) for q in unit]

    assert order(1) == order(1) != order(2)
    # Whatever order the file has.
    images = [unit[0].image_id for unit in draw_units(QUESTIONS, settings())]
    assert [u[0].image_id for u in draw_units(QUESTIONS[::-1], settings())] == images


def test_what_is_lost() -> None:
    asked = [question("a", n) for n in range(4)]
    full, carved = ["yes", "no", "Yes.", "no"], ["no", "yes", "yes", "never"]
    assert losses_of(full, carved, asked, "accuracy") == [1, -1, 0, 0]
    assert losses_of(full, carved, asked, "agreement") == [1, 1, 1, 1]
    assert losses_of(full, full, asked, "agreement") == [0, 0, 0, 0]
    sure, unsure = {"probability": 0.9}, {"probability": 0.3}
    assert losses_of([sure], [unsure], asked[:1], "likelihood") == [pytest.approx(0.6)]


def test_likelihood_of_an_uncarved_model_is_its_own(
    vlm: VisionLanguageModel, tmp_path: Path
) -> None:
    """A method that keeps everything loses nothing, to rounding."""
    wanted = settings(by="likelihood", budgets=(Budget(keep_ratio=1.0), Budget(keep_tokens=1)))
    asked = load_questions("easy-vqa", limit=5)
    units = [[each] for each in asked]
    for parts in (Parts(folder=tmp_path), Parts(folder=tmp_path), Parts()):  # the second reads
        asking = Asking(vlm, wanted.arms(), units, wanted, facts={}, parts=parts)
        losses = asking.ask(0, 5, ["divprune 100%", "divprune 1 tokens"])
        assert max(map(abs, losses["divprune 100%"])) < 1e-5
        assert max(map(abs, losses["divprune 1 tokens"])) > 1e-4
        assert asking.calls == 15
    inputs = vlm.inputs(asked[0].question, asked[0].image)
    (answer,) = vlm.generate(inputs, max_new_tokens=2, probabilities=True)
    mean = math.exp(sum(math.log(t.probability) for t in answer.tokens) / len(answer.tokens))
    with foveate.attach(vlm.model, foveate.DivPrune(keep_tokens=1)):
        (scored,) = score_continuations(vlm, inputs, [answer.ids])
    expected = mean - math.exp(-scored.loss)
    assert losses["divprune 1 tokens"][0] == pytest.approx(expected, abs=1e-5)


def test_images_are_encoded_once_for_all_settings(
    vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[ImageCache] = []
    real = ImageCache.__init__

    def counted(self: ImageCache, model: Any) -> None:
        real(self, model)
        made.append(self)

    monkeypatch.setattr(ImageCache, "__init__", counted)
    wanted = settings(methods=("divprune", "fastv"), batch_size=4, explore=4)
    asked = load_questions("easy-vqa", limit=8)
    tuned = tune(
        vlm,
        asked,
        TuneSettings(**{**vars(wanted), "claim": "file", "max_loss": 0.9, "by": "likelihood"}),
    )
    (cache,) = made
    assert tuned.asked in (4, 8)
    assert cache.num_encoded == tuned.asked // 4


@pytest.mark.parametrize(
    ("questions", "changes", "words"),
    [
        ([], {}, "there are no questions to tune on"),
        ([question("a", 0, NO_ANSWER), question("b", 0)], {}, "1 of 2 questions have no answers"),
        (QUESTIONS, {"max_loss": 0.03}, "5 images cannot prove a loss below 3 points at 95 %"),
        (QUESTIONS[:6], {"claim": "file"}, "6 questions cannot prove a loss below"),
    ],
)
def test_too_little_to_prove_anything(
    questions: list[Question], changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        check_questions(questions, settings(**changes))


@pytest.mark.parametrize(
    ("by", "answer", "words"),
    [
        ("accuracy", "no model says this", "the full model answers 0 of the first 8 questions"),
        ("agreement", NO_ANSWER, "the full model says something to 0 of the first 8 questions"),
    ],
)
def test_nothing_to_lose(
    vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch, by: str, answer: str, words: str
) -> None:
    """Answers of another form than the data's, or none at all: every setting would look safe."""
    monkeypatch.setattr(Answering, "ask", lambda self, arm, inputs, **_: (_silent(inputs), ()))
    asked = [question(f"{n}", n, answer) for n in range(40)]
    with pytest.raises(InputError, match=words):
        tune(vlm, asked, settings(by=by, explore=8, batch_size=4))


def _silent(inputs: dict[str, Any]) -> list[str]:
    return [""] * len(inputs["input_ids"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"max_loss": 1.5}, "max_loss=1.5 is outside"),
        ({"confidence": 0.0}, "confidence=0.0 is outside"),
        ({"confidence": 1 - 1e-13}, "or within 1e-09 of its ends"),
        ({"max_loss": 1e-320}, "or within 1e-09 of its ends"),
        ({"by": "taste"}, "by='taste' is unknown; use one of accuracy, agreement, likelihood"),
        ({"methods": ()}, "no setting to try"),
        ({"batch_size": 0}, "batch_size=0 is below 1"),
        ({"methods": ("no-such",)}, "unknown method"),
    ],
)
def test_settings_that_cannot_be(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(foveate.FoveateError, match=words):
        settings(**changes)
