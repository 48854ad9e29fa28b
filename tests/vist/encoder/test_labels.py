"""Targets, text and accuracy of reading: classes, slots, tokens, edit distance."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
import torch

from foveate.errors import InputError
from foveate.text_image.render import Renderer
from foveate.vist.encoder.labels import (
    ALPHABET,
    BLANK,
    NUM_CLASSES,
    OTHER,
    UNREADABLE,
    character_classes,
    character_targets,
    edit_distance,
    text_of,
    token_targets,
)
from foveate.vist.train.reading_loss import character_loss, token_loss, token_table, token_top1

TEXT = (
    'The keeper\'s 12 lamps\n(all lit): if x[0] != 0xFf00: illicit~ "fi" ... Ünïcode — €5, mm @@ '
)


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer()


def slow_distance(first: str, second: str) -> int:
    """The textbook table, row by row."""
    row = list(range(len(second) + 1))
    for i, a in enumerate(first, 1):
        new = [i]
        for j, b in enumerate(second, 1):
            new.append(min(new[-1] + 1, row[j] + 1, row[j - 1] + (a != b)))
        row = new
    return row[-1]


def test_alphabet_names_every_character_once() -> None:
    assert len(set(ALPHABET)) == len(ALPHABET)
    assert NUM_CLASSES == len(ALPHABET) + 2 <= 256
    assert text_of(character_classes(ALPHABET)) == ALPHABET


def test_unknown_and_twin_characters() -> None:
    assert character_classes("中\U0001f600").tolist() == [OTHER, OTHER]
    assert text_of(np.array([BLANK, OTHER, BLANK])) == UNREADABLE
    assert character_classes("\N{NO-BREAK SPACE}\N{NON-BREAKING HYPHEN}").tolist() == (
        character_classes(" -").tolist()
    )
    assert character_classes("\ud800").tolist() == [OTHER]  # a lone surrogate is no error


def test_slots_spell_the_text(renderer) -> None:
    text = TEXT * 20
    strips = renderer.render(text)
    targets = character_targets(strips, text)
    assert targets.shape == (*strips.patch_mask.shape, 7)
    assert len(targets) > 1
    assert text_of(targets) == text
    assert not targets[~strips.patch_mask].any()


def test_a_slot_holds_the_character_whose_centre_lies_in_it(renderer) -> None:
    strips = renderer.render("im")
    targets = character_targets(strips, "im").reshape(-1)
    for idx, name in enumerate("im"):
        centre = int(strips.char_left[idx] + strips.char_right[idx]) // 2
        assert targets[centre // 2] == character_classes(name)[0]


def test_targets_of_another_text_are_refused(renderer) -> None:
    strips = renderer.render("four")
    with pytest.raises(InputError, match="text has 5 characters but the strips show 4"):
        character_targets(strips, "fours")
    with pytest.raises(InputError, match="slots=5 does not divide a patch of 14 px"):
        character_targets(strips, "four", slots=5)


def test_tokens_lie_where_they_end(renderer) -> None:
    text = TEXT * 20
    strips = renderer.render(text)
    rng = random.Random(0)
    cuts = sorted({0, len(text), *rng.sample(range(len(text)), len(text) // 3)})
    offsets = list(itertools.pairwise(cuts))
    targets = token_targets(strips, range(len(offsets)), offsets)
    expected: dict[tuple[int, int], list[int]] = {}
    for token, (_, stop) in enumerate(offsets):
        place = (int(strips.char_page[stop - 1]), int(strips.char_patch[stop - 1]))
        expected.setdefault(place, []).append(token)
    assert max(map(len, expected.values())) > 2
    for place in np.ndindex(strips.patch_mask.shape):
        named = [-1, -1, *expected.get(place, [])][-1:-3:-1]
        named = named if place in expected else [-1, -1]
        assert targets[place].tolist() == named


def test_no_tokens_and_tokens_outside(renderer) -> None:
    strips = renderer.render("abc")
    assert (token_targets(strips, [], []) == -1).all()
    with pytest.raises(InputError, match="ends at character 4 of a text of 3"):
        token_targets(strips, [5], [(0, 4)])


@pytest.mark.parametrize("seed", range(8))
def test_edit_distance_equals_the_table(seed) -> None:
    rng = random.Random(seed)
    for _ in range(40):
        first, second = ("".join(rng.choices("ab c", k=rng.randrange(0, 80))) for _ in range(2))
        assert edit_distance(first, second) == slow_distance(first, second)


def test_character_loss_counts_text_only() -> None:
    logits = torch.zeros(1, 3, 2, 4)
    targets = torch.tensor([[[1, 2], [0, 3], [0, 0]]])
    mask = torch.tensor([[True, True, False]])
    expected = 2 * torch.tensor(4.0).log()
    torch.testing.assert_close(character_loss(logits, targets, mask), expected)
    logits[0, 2] = 50 * torch.randn(2, 4)
    torch.testing.assert_close(character_loss(logits, targets, mask), expected)


def test_token_loss_and_nearest_token() -> None:
    table = token_table(torch.randn(50, 24, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(table.norm(dim=1), torch.ones(50))
    targets = torch.tensor([3, 3, 17])
    right, others = 5 * table[targets], torch.arange(40)
    assert token_top1(right, table).tolist() == [3, 3, 17]
    low = token_loss(right, targets, table, others)
    assert low < 0.01 < token_loss(-right, targets, table, others)
    # A negative that is a target, or repeats, is one class.
    doubled = token_loss(right, targets, table, torch.cat([others, others]))
    torch.testing.assert_close(low, doubled)
