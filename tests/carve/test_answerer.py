"""A model under a method: reports of one batch alone, numbered images, images encoded once."""

from __future__ import annotations

import pytest
from PIL import Image

import foveate
from foveate.carve.answerer import Answerer
from foveate.carve.engine.image_cache import ImageCache
from foveate.errors import AttachError, MethodError
from foveate.models.load import load_vlm
from foveate.models.vlm import VisionLanguageModel
from tests.cli.vlm_folder import NUM_VISUAL, save_tiny_vlm

RED = Image.new("RGB", (32, 32), "red")


@pytest.fixture(scope="module")
def vlm(tmp_path_factory: pytest.TempPathFactory) -> VisionLanguageModel:
    return load_vlm(save_tiny_vlm(tmp_path_factory.mktemp("tiny")))


def test_reports_are_those_of_one_batch(vlm: VisionLanguageModel) -> None:
    answerer = Answerer(vlm, foveate.FastV(keep_tokens=4))
    inputs = vlm.inputs(["what ?", "is ?"], [RED, RED])
    said = [answerer.answer(inputs, max_new_tokens=3) for _ in range(2)]
    scored = answerer.score(inputs, [[5], [6, 7]])
    for one in (*said, scored):
        (report,) = one.reports
        assert [(image.before, image.kept) for image in report.images] == [(NUM_VISUAL, 4)] * 2
    with foveate.attach(vlm.model, foveate.FastV(keep_tokens=4)):
        assert [answer.text for answer in said[0].rows] == vlm.answer(inputs, max_new_tokens=3)
    assert [row.num_tokens for row in scored.rows] == [1, 2]
    assert "generate" not in vars(vlm.model)


def test_without_a_method_there_are_answers_and_no_reports(vlm: VisionLanguageModel) -> None:
    inputs = vlm.inputs("what ?", RED)
    said = Answerer(vlm, None).answer(inputs, max_new_tokens=3)
    assert [answer.text for answer in said.rows] == vlm.answer(inputs, max_new_tokens=3)
    assert said.reports == ()


def test_random_choices_follow_the_images_number(vlm: VisionLanguageModel) -> None:
    answerer = Answerer(vlm, foveate.RandomTokens(keep_tokens=4))
    inputs = vlm.inputs("what ?", RED)

    def kept(first_image: int | None) -> list[int]:
        answerer.answer(inputs, first_image=first_image, max_new_tokens=1)
        assert answerer.run is not None
        (entry,) = answerer.run.plans
        assert entry.plan is not None
        return list(entry.plan.keep_idx[0].tolist())

    first, second = kept(0), kept(None)
    assert first != second
    assert (kept(0), kept(1)) == (first, second)


def test_images_are_encoded_once_for_all(vlm: VisionLanguageModel) -> None:
    images = ImageCache(vlm.model)
    methods = (None, foveate.NoOp(), foveate.FastV(keep_tokens=4), foveate.DivPrune(keep_tokens=4))
    answerers = [Answerer(vlm, method, images=images) for method in methods]
    inputs = vlm.inputs("what ?", RED)
    for answerer in answerers:
        answerer.answer(inputs, max_new_tokens=1)
    assert images.num_encoded == 1
    Answerer(vlm, foveate.ToMe(keep_tokens=4), images=images).answer(inputs, max_new_tokens=1)
    assert images.num_encoded == 1  # it acts in the tower, so the tower ran


def test_what_cannot_be_put_on_is_refused_at_once(vlm: VisionLanguageModel) -> None:
    with pytest.raises(MethodError, match="prune_layer"):
        Answerer(vlm, foveate.FastV(keep_tokens=4, prune_layer=99))
    with foveate.attach(vlm.model, foveate.NoOp()), pytest.raises(AttachError, match="already"):
        Answerer(vlm, foveate.FastV(keep_tokens=4))
    assert "generate" not in vars(vlm.model)
