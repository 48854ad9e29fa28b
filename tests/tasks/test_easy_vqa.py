"""Loader of easy-VQA: split, order, canvas and errors."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from foveate.tasks.easy_vqa import easy_vqa_items, easy_vqa_questions

installed = importlib.util.find_spec("easy_vqa") is not None
needs_data = pytest.mark.skipif(not installed, reason="the package easy-vqa is not installed")


@needs_data
def test_splits_have_the_published_sizes() -> None:
    assert len(easy_vqa_items("train")) == 38575
    assert len(easy_vqa_items("test")) == 9673


@needs_data
@pytest.mark.parametrize(("canvas", "size"), [(False, (64, 64)), (True, (224, 224))])
def test_questions_are_the_same_every_time(canvas: bool, size: tuple[int, int]) -> None:
    first = list(easy_vqa_questions(canvas=canvas, limit=30, stride=7))
    again = list(easy_vqa_questions(canvas=canvas, limit=30, stride=7))
    assert len(first) == 30
    assert {q.image.size for q in first} == {size}
    for a, b in zip(first, again, strict=True):
        assert (a.id, a.question, a.answers, a.kind) == (b.id, b.question, b.answers, b.kind)
        np.testing.assert_array_equal(np.asarray(a.image), np.asarray(b.image))


@needs_data
def test_kinds_and_answers() -> None:
    rows = list(easy_vqa_questions(limit=200))
    assert {q.kind for q in rows} == {"easy_vqa/yes_no", "easy_vqa/shape", "easy_vqa/colour"}
    assert all(len(q.answers) == 1 for q in rows)
    assert len({q.id for q in rows}) == len(rows)


@needs_data
def test_training_labels_agree_with_the_questions() -> None:
    from training.vlm.shapes import num_images

    assert 3000 < num_images() <= 4000


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="split='dev' is unknown; easy-VQA has 'train' and 'test'"):
        easy_vqa_items("dev")
    with pytest.raises(ValueError, match="must be at least 1"):
        next(easy_vqa_questions(stride=0))


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    easy_vqa_items.cache_clear()
    with pytest.raises(ModuleNotFoundError, match="pip install easy-vqa"):
        easy_vqa_items("test")
