"""Named data sets: enough held-out questions, none about what the embedded model was trained on."""

from __future__ import annotations

import hashlib
import importlib.util
import random

import pytest
from PIL import Image

import foveate.tasks.reading as reading
from foveate.tasks.easy_vqa import easy_vqa_image, easy_vqa_items
from foveate.tasks.named import load_questions
from foveate.tasks.reading import SEEDS, page_at
from foveate.tasks.reading_page import make_page

needs_easy_vqa = pytest.mark.skipif(
    importlib.util.find_spec("easy_vqa") is None, reason="the package easy-vqa is not installed"
)


@pytest.mark.parametrize(
    ("name", "images"), [("reading", 500), pytest.param("easy-vqa", 800, marks=needs_easy_vqa)]
)
def test_two_thousand_held_out_questions(
    name: str, images: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "paint", lambda page: Image.new("RGB", (1, 1)))  # 2,000 are slow
    questions = load_questions(name, limit=2000)
    assert len({question.id for question in questions}) == 2000
    assert len({question.image_id for question in questions}) >= images
    assert all("-test-" in question.id for question in questions)


def test_a_larger_limit_only_adds_reading_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a run can be made longer with --resume."""
    monkeypatch.setattr(reading, "paint", lambda page: Image.new("RGB", (1, 1)))
    few, more = (load_questions("reading", limit=limit) for limit in (64, 128))
    assert [q.id for q in more[:64]] == [q.id for q in few]


def test_no_test_page_is_one_that_training_draws() -> None:
    """training/vlm/train_joint.py and train_vision.py draw their pages by these names."""
    held_out = {page_at(SEEDS["test"], index).cells for index in range(500)}
    assert len(held_out) == 500
    for step in range(25):
        for slot in range(20):
            rng = random.Random(f"joint/{step}/{slot}")
            rng.random()
            assert make_page(rng).cells not in held_out
            assert make_page(random.Random(f"vision/{step}/{slot}")).cells not in held_out


@needs_easy_vqa
def test_no_test_picture_of_easy_vqa_is_in_its_training_split() -> None:
    pixels = {
        split: {
            hashlib.sha256(easy_vqa_image(split, number).tobytes()).hexdigest()
            for number in {number for _, _, number in easy_vqa_items(split)}
        }
        for split in ("train", "test")
    }
    assert len(pixels["test"]) == 1000
    assert not pixels["train"] & pixels["test"]
