"""Loading a checkpoint: precision, device, padding side, and prompts made from it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from foveate.errors import InputError
from foveate.models.load import load_vlm
from foveate.models.vlm import VisionLanguageModel
from tests.cli.vlm_folder import NUM_VISUAL, WORDS, save_tiny_vlm

RED = Image.new("RGB", (20, 30), "red")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_vlm(tmp_path_factory.mktemp("load") / "tiny")


@pytest.fixture(scope="module")
def vlm(folder: Path) -> VisionLanguageModel:
    return load_vlm(folder)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [("auto", torch.float32), ("bfloat16", torch.bfloat16), ("float16", torch.float16)],
)
def test_precision(folder: Path, asked: str, expected: torch.dtype) -> None:
    loaded = load_vlm(folder, dtype=asked, device="cpu")
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {expected}
    inputs = loaded.inputs(["what?"], [[RED]])
    assert inputs["pixel_values"].dtype == expected


def test_unknown_precision_names_the_known_ones(folder: Path) -> None:
    with pytest.raises(InputError, match="use auto, float32, float16, bfloat16"):
        load_vlm(folder, dtype="int8")


def test_loaded_model_is_ready(vlm: VisionLanguageModel) -> None:
    assert not vlm.model.training
    assert (vlm.family.title, vlm.attention, vlm.dtype) == ("LLaVA-1.5", "sdpa", "float32")
    assert vlm.device == torch.device("cpu")


def test_weights_tell_checkpoints_apart(
    folder: Path, vlm: VisionLanguageModel, tmp_path: Path
) -> None:
    same, other = (save_tiny_vlm(tmp_path / str(seed), seed=seed) for seed in (0, 1))
    assert vlm.weights == load_vlm(folder).weights == load_vlm(same).weights
    assert len({vlm.weights, load_vlm(other).weights, ""}) == 3


def test_attention_kernel_can_be_chosen(folder: Path) -> None:
    assert load_vlm(folder, attention="eager").attention == "eager"


def test_batch_is_padded_on_the_left(vlm: VisionLanguageModel) -> None:
    questions = ["what?", "what color is the shape?"]
    inputs = vlm.inputs(questions, [[RED], [RED, RED]])
    image = WORDS.index("<image>")
    assert (inputs["input_ids"] == image).sum(-1).tolist() == [NUM_VISUAL, 2 * NUM_VISUAL]
    assert inputs["attention_mask"][0, 0] == 0
    assert inputs["attention_mask"][:, -1].tolist() == [1, 1]
    assert inputs["input_ids"][:, -1].tolist() == [WORDS.index("ASSISTANT:")] * 2


def test_answers_of_a_batch_equal_those_alone(vlm: VisionLanguageModel) -> None:
    blue = Image.new("RGB", (30, 30), "blue")
    asked = [("what?", [RED]), ("what color is the shape?", [blue, RED]), ("yes?", [])]
    inputs = vlm.inputs([q for q, _ in asked], [i for _, i in asked])
    together = vlm.answer(inputs, max_new_tokens=5)
    alone = [vlm.answer(vlm.inputs(q, i), max_new_tokens=5)[0] for q, i in asked]
    assert together == alone


def test_answer_holds_new_tokens_only(vlm: VisionLanguageModel) -> None:
    inputs = vlm.inputs(["what?", "yes?"], [[RED], [RED]])
    answers = vlm.answer(inputs, max_new_tokens=1)
    assert set(answers) <= set(WORDS)


@pytest.mark.parametrize(("questions", "images"), [([], []), (["a"], []), (["a"], [[RED], [RED]])])
def test_counts_must_fit(
    vlm: VisionLanguageModel, questions: list[str], images: list[list[Image.Image]]
) -> None:
    with pytest.raises(InputError, match="one list of images"):
        vlm.inputs(questions, images)


def test_placeholder_inside_a_question_is_refused(vlm: VisionLanguageModel) -> None:
    with pytest.raises(InputError, match="holds '<image>', which this model reads as a picture"):
        vlm.inputs("what is <image> <image>?", RED)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("what color is the shape?", []),
        ("what is the zebra's zebra? Zebra", ["zebra's", "zebra", "Zebra"]),
        ("", []),
    ],
)
def test_unknown_words(vlm: VisionLanguageModel, text: str, expected: list[str]) -> None:
    assert vlm.unknown_words(text) == expected
