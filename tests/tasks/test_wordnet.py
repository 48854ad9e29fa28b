"""WordNet's files: meanings by halves, other words for a word."""

from __future__ import annotations

from pathlib import Path

import pytest

from foveate.errors import InputError
from foveate.tasks.wordnet import WordNet, stem

NOUNS = [
    "00000007 06 n 02 lamp 0 light_source 0 000 | a thing that gives light; "
    '"the lamp burns all night"',
    "00000014 06 n 02 boat 0 vessel 0 000 | a craft for travel on water; "
    '"the boat came home at last"',
    "00000021 06 n 02 boat 1 sauceboat 0 000 | a dish for sauce",
    "00000028 06 n 02 boat 2 ark 0 000 | a third meaning",
]
INDEX = [
    "  1 licence",
    "boat n 3 0 3 0 00000014 00000021 00000028",
    "lamp n 1 0 1 0 00000007",
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for pos in ("noun", "verb", "adj", "adv"):
        (tmp_path / f"data.{pos}").write_text("\n".join(NOUNS) if pos == "noun" else "")
        (tmp_path / f"index.{pos}").write_text("\n".join(INDEX) if pos == "noun" else "")
    return tmp_path


def test_meanings_have_words_a_gloss_and_examples(folder: Path) -> None:
    lamp = WordNet(folder).synsets["noun00000007"]
    assert lamp.words == ("lamp", "light source")
    assert lamp.gloss == "a thing that gives light"
    assert lamp.examples == ("the lamp burns all night",)


def test_other_words_are_of_the_first_meanings(folder: Path) -> None:
    known = WordNet(folder)
    assert known.other_words("boat") == ["vessel", "sauceboat"]
    assert known.other_words("Boats") == ["vessel", "sauceboat"]
    assert known.other_words("tree") == []


def test_halves_share_no_meaning(folder: Path) -> None:
    halves = [WordNet(folder, half=half) for half in (0, 1)]
    assert not set(halves[0].synsets) & set(halves[1].synsets)
    assert set(halves[0].synsets) | set(halves[1].synsets) == set(WordNet(folder).synsets)
    assert halves[0].other_words("boat") == ["vessel"]
    assert halves[1].other_words("boat") == ["sauceboat"]


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "index.adj").unlink()
    with pytest.raises(InputError, match=r"lacks data.adj or index.adj; unpack"):
        WordNet(folder)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [("boats", "boat", True), ("travelled", "travelling", True), ("boat", "coat", False)],
)
def test_stems(one: str, other: str, same: bool) -> None:
    assert (stem(one) == stem(other)) is same
