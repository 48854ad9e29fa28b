"""The reading world is deterministic, and every answer follows from the page's facts."""

from __future__ import annotations

import hashlib
import random
from itertools import pairwise

import numpy as np
import pytest

from foveate.tasks.reading import KINDS, SEEDS, page_at, questions_about, reading_questions
from foveate.tasks.reading_page import make_page, paint
from training.vlm.codes import FACTORS, GRID, code_of, code_table, patch_labels
from training.vlm.vocabulary import UNKNOWN, VOCABULARY, decode, encode

DEV = SEEDS["dev"]


def test_same_seed_gives_same_pixels_and_questions() -> None:
    first = list(reading_questions(split="dev", num_pages=3))
    again = list(reading_questions(split="dev", num_pages=3))
    assert [(q.id, q.question, q.answers) for q in first] == [
        (q.id, q.question, q.answers) for q in again
    ]
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(np.asarray(a.image), np.asarray(b.image))


def test_start_index_gives_the_same_page_as_counting_up_to_it() -> None:
    counted = [q for q in reading_questions(split="dev", num_pages=4) if q.image_id.endswith("-3")]
    direct = list(reading_questions(split="dev", num_pages=1, start=3))
    assert [q.id for q in counted] == [q.id for q in direct]
    assert [q.answers for q in counted] == [q.answers for q in direct]


def test_splits_share_no_picture() -> None:
    seen: dict[str, set[str]] = {}
    for split, seed in SEEDS.items():
        pages = (paint(page_at(seed, index)) for index in range(20))
        seen[split] = {hashlib.sha256(np.asarray(p).tobytes()).hexdigest() for p in pages}
    assert len(set().union(*seen.values())) == sum(len(hashes) for hashes in seen.values())


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_answer_is_unique_and_true(kind: str) -> None:
    checked = 0
    for index in range(60):
        page = page_at(DEV, index)
        for asked in questions_about(page, random.Random(index), 3, kinds=(kind,)):
            assert asked.answer == _look_up(page, asked.text), (index, asked)
            checked += 1
    assert checked >= 20


@pytest.mark.parametrize("kind", ["one_hop/exists", "one_hop/shape_exists"])
def test_yes_and_no_are_balanced(kind: str) -> None:
    answers = []
    for index in range(200):
        page = page_at(DEV, index)
        answers += [a.answer for a in questions_about(page, random.Random(index), 2, kinds=(kind,))]
    assert 0.4 < answers.count("yes") / len(answers) < 0.6


def test_pages_are_dense_and_words_unique() -> None:
    shares = []
    for index in range(60):
        page = page_at(DEV, index)
        words = [cell.word for cell in page.cells if cell.word]
        assert len(words) == len(set(words))
        shares.append((patch_labels(page)[:, 0] > 0).float().mean().item())
    assert 0.45 < np.mean(shares) < 0.7
    assert max(shares) > 0.6


def test_ink_stays_on_the_page_and_apart() -> None:
    for index in range(40):
        page = make_page(random.Random(index))
        boxes = [ink.box for ink in page.ink if ink.what != "shape"]
        assert all(box[0] >= 0 and box[2] <= 224 for box in boxes)
        for cell in page.cells:
            row = sorted(ink.box for ink in page.ink if ink.cell is cell)
            assert all(a[2] <= b[0] + 2 for a, b in pairwise(row)), row


def test_vocabulary_covers_every_question_and_answer() -> None:
    unknown = VOCABULARY.index(UNKNOWN)
    assert len(VOCABULARY) <= 512
    for question in reading_questions(split="dev", num_pages=40, per_page=12):
        assert unknown not in encode(question.question)
        assert decode(encode(question.answers[0])) == question.answers[0]


def test_codes_are_orthonormal_sums() -> None:
    table = code_table()
    assert (table @ table.T - table.new_ones(len(table)).diag()).abs().max() < 1e-5
    labels = patch_labels(page_at(DEV, 0))
    assert labels.shape == (GRID * GRID, len(FACTORS))
    found = code_of(labels, table) @ table.T
    assert ((found > 0.5).sum(-1) == (labels >= 0).sum(-1)).all()


def test_unknown_split_and_kind_are_refused() -> None:
    with pytest.raises(ValueError, match="split='tset' is unknown; use one of train, dev, test"):
        next(reading_questions(split="tset", num_pages=1))
    with pytest.raises(ValueError, match="kind='three_hop' is unknown"):
        questions_about(page_at(DEV, 0), random.Random(0), 1, kinds=("three_hop",))


def _look_up(page, text: str) -> str:
    """Answer by brute force from the cells, written independently of the generator."""
    words = text.rstrip("?").split()
    named = {c.word: c for c in page.cells if c.word}
    at = {(c.line, c.block): c for c in page.cells}
    shapes = [c for c in page.cells if c.kind == "shape"]
    if words[:2] == ["is", "there"]:
        if words[2] != "a":
            return "yes" if words[2] in named else "no"
        wanted = words[3]
        return "yes" if any(wanted in (c.shape, c.colour) for c in shapes) else "no"
    if words[-1] == "shape":
        return _only({c.shape for c in shapes if c.colour == words[3]})
    if words[-1] in ("circle", "rectangle", "triangle"):
        return _only({c.colour for c in shapes if c.shape == words[-1]})
    if words[-1].isdigit():
        cell = next(c for c in page.cells if c.kind == "item" and c.price == int(words[-1]))
    else:
        cell = named[words[-1]]
        for name, step in (("under", 1), ("above", -1)):
            if name in words:
                cell = at[cell.line + step, cell.block]
        if "beside" in words:
            cell = at[cell.line, 1 - cell.block]
    if "color" in words:
        return cell.colour
    if "stock" in words:
        return str(cell.stock)
    if "price" in words and not words[-1].isdigit():
        return str(cell.price)
    return cell.word


def _only(values: set[str]) -> str:
    assert len(values) == 1
    return values.pop()
