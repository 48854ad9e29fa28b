"""Pages are proofread before a model is shown them, and what is misread stands as text."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from foveate.carve.pages.layout import TextLayout
from foveate.carve.pages.proof import Legibility, proofread
from foveate.carve.pages.reader import PageReader
from foveate.text_image.strip_style import StripStyle
from foveate.text_image.strips import Strips

TEXT = "the lamp of Clara\nburns at (night) -- and the lamp is lit\n" * 3


class Stranger:
    """Misreads one letter everywhere."""

    def __init__(self, wrong: str = "", reason: str = "") -> None:
        self.wrong, self.reason = wrong, reason

    def why_not(self, style: StripStyle) -> str:
        return self.reason

    def is_right(self, strips: Strips, text: str) -> npt.NDArray[np.bool_]:
        assert len(text) == len(strips.char_page)
        return np.array([char != self.wrong for char in text])


STYLE = TextLayout(width=112, height=56, font_px=10).style


def test_words_with_a_misread_character_are_counted() -> None:
    found = proofread(Stranger("m"), STYLE, TEXT)
    assert found.misread == {"lamp": 6}
    assert found.words == len(TEXT.split())
    assert found.share == pytest.approx(1 - 6 / len(TEXT.split()))
    assert found.marks == ("lamp",)
    assert "misread: lamp" in str(found)


def test_signs_around_a_word_are_no_part_of_its_mark() -> None:
    assert proofread(Stranger("g"), STYLE, TEXT).marks == ("night",)
    signs = proofread(Stranger("-"), STYLE, TEXT)
    assert signs.misread == {"--": 3}
    assert signs.marks == ()


def test_a_reader_without_faults_misreads_nothing() -> None:
    found = proofread(Stranger(), STYLE, TEXT)
    assert (found.share, found.marks) == (1.0, ())
    assert str(found) == f"100.0 % of {len(TEXT.split())} words legible"


@pytest.mark.parametrize(
    ("style", "reason", "words"),
    [(None, "", "no plain text"), (STYLE, "too small for me", "too small for me")],
)
def test_what_cannot_be_judged_is_said(style: StripStyle | None, reason: str, words: str) -> None:
    found = proofread(Stranger("m", reason), style, TEXT)
    assert found.share is None
    assert words in str(found)
    assert found == Legibility(note=found.note)


def test_misread_words_stand_beside_the_pages() -> None:
    settings = {"page": (336, 336), "font_px": 10}
    plain = PageReader("embedded", **settings)  # type: ignore[arg-type]
    checked = PageReader(plain.vlm, proofreader=Stranger("m"), **settings)  # type: ignore[arg-type]
    before = plain.plan(TEXT, "what color ?")
    after = checked.plan(TEXT, "what color ?")
    assert before.legibility is None
    assert after.legibility is not None
    assert after.legibility.misread == {"lamp": 6}
    assert "lamp" not in before.exact.text
    assert "lamp" in after.exact.text
    assert after.cost.exact_tokens > before.cost.exact_tokens
