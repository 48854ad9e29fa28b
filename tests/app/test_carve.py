"""The Carve tab's logic: what is shown is what the model and the plan really did."""

from __future__ import annotations

import dataclasses
import html
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from PIL import Image

import foveate
from foveate.app.carve import Carver, suitable_methods
from foveate.app.carve_html import agreement_html, answers_html, map_html, token_texts
from foveate.app.examples import ImageExample, image_examples
from foveate.assets import EMBEDDED_READS
from foveate.carve.compare.agreement import BUDGETS, Agreement
from foveate.carve.method import METHODS
from foveate.carve.profile import ModelId, Profile
from foveate.errors import BudgetError, InputError
from foveate.models.load import load_vlm
from foveate.models.vlm import VisionLanguageModel
from tests import tiny_vlm as tiny
from tests.cli.vlm_folder import save_tiny_vlm


def test_the_methods_that_fit_are_offered(carver: Carver) -> None:
    assert set(carver.methods) == set(METHODS) - {"noop", "stack", "text-share", "pixelprune"}


def test_methods_that_a_family_refuses_are_not_offered() -> None:
    model = tiny.build("qwen2_5_vl")
    offered = suitable_methods(VisionLanguageModel(name="tiny", model=model, processor=None))
    assert {"tokencarve", "fastv", "divprune"} <= set(offered)
    assert not {"tome", "prune-and-merge", "resize"} & set(offered)
    assert "generate" not in vars(model)


def test_a_profile_is_offered_first_and_has_its_own_budget(
    carver: Carver, example: ImageExample
) -> None:
    method = foveate.DivPrune(keep_tokens=50)
    vlm = carver.vlm
    model = ModelId(name=vlm.name, type="llava", weights=vlm.weights)
    tuned = Carver(vlm, profile=Profile(method=method, model=model))
    assert tuned.initial == tuned.methods[0] == "profile: divprune(keep=50 tokens)"
    found = tuned.carve(example.image, example.question, tuned.initial, 0.9, max_new_tokens=2)
    assert found.method == method
    assert not list(tuned.agreement(found))
    other = ModelId(name="another", type="llava", weights="0")
    with pytest.raises(InputError, match="load the model as it was tuned"):
        Carver(vlm, profile=Profile(method=method, model=other))
    assert carver.initial == "tokencarve"


def test_both_answers_are_those_of_the_model(carver: Carver, example: ImageExample) -> None:
    found = carver.carve(example.image, example.question, "tokencarve", 0.25)
    inputs = carver.vlm.inputs(example.question, example.image)
    assert [found.full.text] == carver.vlm.answer(inputs, max_new_tokens=16)
    with foveate.attach(carver.vlm.model, foveate.TokenCarve(keep_ratio=0.25)) as run:
        assert [found.carved.text] == carver.vlm.answer(inputs, max_new_tokens=16)
    assert found.plan is not None
    assert torch.equal(found.plan.keep_idx, run.plans[0].plan.keep_idx)  # type: ignore[union-attr]
    assert found.full_kv_bytes == run.report.kv_bytes_uncompressed  # type: ignore[union-attr]
    assert found.kv_bytes == run.report.kv_bytes  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "name", sorted(set(METHODS) - {"noop", "stack", "text-share", "pixelprune"})
)
def test_every_method_is_drawn(carver: Carver, example: ImageExample, name: str) -> None:
    found = carver.carve(example.image, example.question, name, 0.25)
    shown = map_html(found)
    svg = ElementTree.fromstring(shown[shown.index("<svg") : shown.index("</svg>") + 6])
    space = "{http://www.w3.org/2000/svg}"
    fates = [rect.get("data-fate") for rect in svg.iter(f"{space}rect")]
    assert len(fates) == 196
    assert fates.count("kept") == found.report.kept
    assert fates.count("merged") == found.report.merged
    assert len(list(svg.iter(f"{space}g"))) == found.report.merged
    if name == "pyramiddrop":  # a token that went in the first step has no later scores
        steps = [int((~step.scores["attention"].isnan()).sum()) for step in found.steps]
        assert steps[0] == 196 > steps[1] > steps[2]


def test_scores_are_told_with_their_ranks(carver: Carver, example: ImageExample) -> None:
    found = carver.carve(example.image, example.question, "tokencarve", 0.5)
    texts = token_texts(found)
    (step,) = found.steps
    best = int(step.scores["information"].argmax())
    assert f"row {best // 14 + 1}, column {best % 14 + 1}" in texts[best]
    assert re.search(r"information \S+ \(rank 1 of 196\); attention \S+ \(rank", texts[best])
    merged = int(found.plan.merge_src[0, 0])  # type: ignore[union-attr]
    target = int(found.plan.merge_dst[0, 0])  # type: ignore[union-attr]
    assert f"merged into row {target // 14 + 1}, column {target % 14 + 1}." in texts[merged]
    assert html.escape(texts[best]) in map_html(found)


def test_everything_kept_is_the_same_answer(carver: Carver, example: ImageExample) -> None:
    found = carver.carve(example.image, example.question, "tokencarve", 1.0)
    assert found.is_same
    assert [t.probability for t in found.full.tokens] == [
        t.probability for t in found.carved.tokens
    ]
    shown = answers_html(found)
    assert "The same answer" in shown
    assert "Nothing was compressed: " in shown


def test_an_other_answer_is_called_so(carver: Carver) -> None:
    found = [
        carver.carve(example.image, example.question, "random", 0.03)
        for example in image_examples()
    ]
    others = [carving for carving in found if carving.full.text != carving.carved.text]
    assert others  # six tokens of 196 cannot answer everything
    assert all("Another answer" in answers_html(carving) for carving in others)


def test_agreement_is_that_of_greedy_answers(carver: Carver, example: ImageExample) -> None:
    found = carver.carve(example.image, example.question, "tokencarve", 0.5)
    points = list(carver.agreement(found))
    assert [point.keep_ratio for point in points] == list(BUDGETS)
    for point in points:
        again = carver.carve(example.image, example.question, "tokencarve", point.keep_ratio)
        assert point.is_same == again.is_same
    assert {point.is_same for point in points} == {True, False}
    lowest = 100 * min(point.keep_ratio for point in points if point.is_same)
    assert f"Lowest budget with it: {lowest:g} %" in agreement_html(points, 0.5)
    assert "measured 3 of 11" in agreement_html(points[:3], 0.5)
    assert "no budget measured yet" in agreement_html([], 0.5)


def test_unknown_words_are_named(carver: Carver, example: ImageExample) -> None:
    found = carver.carve(example.image, "who signed it?", "fastv", 0.5)
    assert "The model does not know: who, signed;" in answers_html(found)


def test_texts_are_escaped(carver: Carver, example: ImageExample) -> None:
    found = carver.carve(example.image, "<b>bun</b>?", "fastv", 0.5)
    spoken = dataclasses.replace(found.full, text="<script>")
    shown = answers_html(dataclasses.replace(found, full=spoken))
    assert "<script>" not in shown
    assert "&lt;script&gt;" in shown
    assert "<b>bun" not in shown


def test_another_model_that_crops(tmp_path: Path) -> None:
    """A checkpoint of the user's own: 16 tokens of the centre of a wide picture."""
    own = Carver(load_vlm(save_tiny_vlm(tmp_path / "tiny")))
    picture = Image.new("RGB", (120, 60), "red")
    found = own.carve(picture, "what color is the circle ?", "tokencarve", 0.5, max_new_tokens=2)
    assert found.seen == (30.0, 0.0, 90.0, 60.0)
    shown = map_html(found)
    assert "the model sees the centre crop only" in shown
    assert shown.count("data-token=") == 16


def test_what_is_not_offered_is_refused(carver: Carver, example: ImageExample) -> None:
    with pytest.raises(InputError, match="method 'stack' is not offered for this model; choose"):
        carver.carve(example.image, example.question, "stack", 0.5)
    with pytest.raises(BudgetError, match=r"keep_ratio=1.5 is outside \(0, 1\]"):
        carver.carve(example.image, example.question, "fastv", 1.5)


def test_the_model_is_unchanged_afterwards(carver: Carver, example: ImageExample) -> None:
    first = carver.carve(example.image, example.question, "foveacarve", 0.1)
    list(carver.agreement(first))
    assert carver.carve(example.image, example.question, "fastv", 0.9).full.ids == first.full.ids
    assert "generate" not in vars(carver.vlm.model)


def test_agreement_on_what_the_model_was_not_made_for_is_not_praised(
    carver: Carver, example: ImageExample
) -> None:
    strange = Image.new("RGB", (300, 500), "white")
    found = carver.carve(strange, example.question, "tokencarve", 1.0)
    assert found.is_same
    assert EMBEDDED_READS in found.doubt
    shown = answers_html(found)
    assert "which says little" in shown
    assert "The same answer" not in shown
    points = [Agreement(keep_ratio=ratio, probability=1.0, is_same=True) for ratio in BUDGETS]
    assert "Lowest budget" in agreement_html(points, 0.5)
    assert "Lowest budget" not in agreement_html(points, 0.5, found.doubt)


def test_an_unsure_answer_is_not_praised(carver: Carver, example: ImageExample) -> None:
    found = carver.carve(example.image, example.question, "tokencarve", 1.0)
    assert found.doubt == ""
    unsure = tuple(dataclasses.replace(token, probability=0.3) for token in found.full.tokens)
    found = dataclasses.replace(found, full=dataclasses.replace(found.full, tokens=unsure))
    assert found.doubt == "the model is not sure of it (a token of 30 %)."
