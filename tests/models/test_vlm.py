"""What a user may hand to a model: texts, images, paths, lists; the embedded model by name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import foveate
from foveate.errors import InputError, MethodError
from foveate.models.load import load_vlm
from foveate.models.vlm import VisionLanguageModel
from tests.cli.vlm_folder import NUM_VISUAL, WORDS, save_tiny_vlm

RED, BLUE = (Image.new("RGB", (32, 32), color) for color in ("red", "blue"))
IMAGE = WORDS.index("<image>")


@pytest.fixture(scope="module")
def vlm(tmp_path_factory: pytest.TempPathFactory) -> VisionLanguageModel:
    return load_vlm(save_tiny_vlm(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="module")
def red_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "red.png"
    RED.save(path)
    return path


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    for key in one:
        assert torch.equal(one[key], other[key]), key


@pytest.mark.parametrize("form", [str, Path, lambda path: [str(path)], lambda path: (RED,)])
def test_one_image_in_every_form(form: Any, vlm: VisionLanguageModel, red_file: Path) -> None:
    assert_same(vlm.inputs("what color ?", form(red_file)), vlm.inputs(["what color ?"], [[RED]]))


def test_a_question_about_several_images_or_none(vlm: VisionLanguageModel, red_file: Path) -> None:
    inputs = vlm.inputs(["what ?", "what ?", "what ?"], [[red_file, BLUE], BLUE, None])
    assert (inputs["input_ids"] == IMAGE).sum(-1).tolist() == [2 * NUM_VISUAL, NUM_VISUAL, 0]
    assert_same(vlm.inputs("what ?", [RED, BLUE]), vlm.inputs(["what ?"], [[RED, BLUE]]))
    assert_same(vlm.inputs(["what ?", "is ?"]), vlm.inputs(["what ?", "is ?"], [[], []]))


def test_transparent_parts_are_white(vlm: VisionLanguageModel) -> None:
    clear, white = Image.new("RGBA", (32, 32), (9, 9, 9, 0)), Image.new("RGB", (32, 32), "white")
    assert_same(vlm.inputs("what ?", clear), vlm.inputs("what ?", white))


def test_one_image_for_two_questions_is_refused(vlm: VisionLanguageModel) -> None:
    with pytest.raises(InputError, match="got 2 questions and a single image; give one list of"):
        vlm.inputs(["what ?", "is ?"], RED)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("https://example.org/cat.png", r"cat.png' does not exist; check the path"),
        ("no.png", r"image 'no.png' does not exist; check the path"),
        (7, "got int as an image; give a PIL image or the path of an image file"),
        (None, "got NoneType as an image"),
    ],
)
def test_only_files_and_images_are_opened(
    given: Any, message: str, vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the processor's own loader, which fetches addresses and knows no limit of pixels."""
    monkeypatch.setattr(vlm.processor, "apply_chat_template", pytest.fail)
    turn = {"role": "user", "content": [{"type": "image", "image": given}]}
    with pytest.raises(InputError, match=message):
        vlm.chat_inputs([[turn]])
    with pytest.raises(InputError, match=message):
        vlm.inputs("what ?", [given])


@pytest.mark.parametrize("mark", ["<image>", "</s>", "USER:", "<pad>"])
def test_marks_of_the_prompt_are_refused_in_a_text(mark: str, tmp_path: Path) -> None:
    vlm = load_vlm(save_tiny_vlm(tmp_path))
    vlm.tokenizer.add_special_tokens({"extra_special_tokens": ["<image>", "USER:", "<ref>"]})
    vlm.processor.chat_template = vlm.processor.chat_template.replace(
        "{{ message['role'].upper() }}:", "USER:"
    )
    with pytest.raises(InputError, match=f"the prompt's text holds '{mark}', which .* write it"):
        vlm.inputs(f"what color {mark} is the shape ?", RED)
    turns = [{"role": "user", "content": [{"type": "text", "text": "what ?"}]}]
    system = {"role": "system", "content": [{"type": "text", "text": f"a {mark}"}]}
    with pytest.raises(InputError, match=f"the prompt's text holds '{mark}'"):
        vlm.chat_inputs([turns, [system, *turns]])
    apart = f"what color {mark[0]} {mark[1:]} is <unk> <ref> ?"  # no marks of a prompt
    assert (vlm.inputs(apart, RED)["input_ids"] == IMAGE).sum() == NUM_VISUAL


@pytest.mark.parametrize("mark", ["<img>", "</img>", "<|user|>", "<|ASSISTANT|>"])
def test_marks_that_no_template_spells_out_are_refused(mark: str, tmp_path: Path) -> None:
    """What a processor writes around pictures, and turns put together of '<|' + role + '|>'."""
    vlm = load_vlm(save_tiny_vlm(tmp_path))
    marks = ["<img>", "</img>", "<|user|>", "<|ASSISTANT|>", "<phrase>", "<superuser>"]
    vlm.tokenizer.add_special_tokens({"extra_special_tokens": marks})
    processor: Any = vlm.processor
    processor.start_image_token, processor.end_image_token = "<img>", "</img>"
    processor.bop_token, processor.num_image_tokens = "<phrase>", 4  # what users may write
    with pytest.raises(InputError, match="the prompt's text holds '" + re.escape(mark)):
        vlm.inputs(f"what does {mark} mean ?", RED)
    vlm.inputs("what do 4 <b> <phrase> <superuser> a < b img user and < img> mean ?", RED)


def test_two_halves_of_a_mark_are_refused(vlm: VisionLanguageModel) -> None:
    parts = [{"type": "text", "text": text} for text in ("what is <ima", "ge> ?")]
    with pytest.raises(InputError, match="the prompt's text holds '<image>'"):
        vlm.chat_inputs([[{"role": "user", "content": parts}]])


def test_tokens_after_a_stop_text_are_not_counted(vlm: VisionLanguageModel) -> None:
    """A row that is done waits for the others of its batch; what fills it up is not its answer."""
    inputs = vlm.inputs(["what color ?", "is there a circle in the image ?"], [RED, BLUE])
    full = vlm.generate(inputs, max_new_tokens=12)
    first = vlm.tokenizer.decode(full[0].ids[0])
    assert first not in full[1].text
    alone, other = vlm.generate(inputs, max_new_tokens=12, stop=[first])
    assert (alone.text, alone.num_tokens) == ("", 1)
    assert other == full[1]


def test_the_embedded_model_by_its_name() -> None:
    vlm = foveate.load_vlm("embedded")
    assert vlm.name == "embedded model"
    image, question, answer = foveate.example_page()
    assert image.size == (224, 224)
    assert vlm.answer(vlm.inputs(question, image)) == [answer]
    assert vlm.unknown_words(question) == []


@pytest.mark.parametrize(
    ("question", "image", "words"),
    [
        (None, None, "got NoneType as the question; give a text"),
        (5, None, "got int as the question"),
        (["a", 5], None, "got list as the question"),
        ("what ?", torch.zeros(3, 4, 4), "got Tensor as an image; give a PIL image"),
    ],
)
def test_what_is_no_question_and_no_image(question: Any, image: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        foveate.load_vlm("embedded").inputs(question, image)


def test_a_class_for_a_method_is_told_apart() -> None:
    model = foveate.load_vlm("embedded").model
    with pytest.raises(MethodError, match="pass an instance such as"):
        foveate.attach(model, foveate.TokenCarve, keep="25%")  # type: ignore[arg-type]
