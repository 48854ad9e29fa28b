"""What of a text its pictures do not show: counted, and refused where it is too much."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from foveate.errors import InputError
from foveate.text_image.strip_style import StripStyle
from foveate.vist.encoder.lost_text import check_lost, lost_characters
from foveate.vist.encoder.text_encoder import TextEncoder, TextEncoderConfig

READS = TextEncoder(TextEncoderConfig(patches=4, width=12, layers=1, heads=3))
FEATURES: Any = SimpleNamespace(style=StripStyle())  # no slot_logits: reads no characters


@pytest.mark.parametrize("encoder", [READS, FEATURES])
@pytest.mark.parametrize(
    ("text", "lost"),
    [
        ("the lamp, for 12 €\n", {}),
        ("東京 東 a", {"東": 2, "京": 1}),
        ("한\U0001f600", {"한": 1, "\U0001f600": 1}),
        ("\x1b[31mred", {"\x1b": 1}),
    ],
)
def test_lost(encoder: Any, text: str, lost: dict[str, int]) -> None:
    assert dict(lost_characters(encoder, text)) == lost


def test_a_reader_loses_what_it_was_not_taught_though_the_font_has_it() -> None:
    text = "слово"
    assert lost_characters(READS, text).total() == 5
    assert lost_characters(FEATURES, text).total() == 0


def test_too_much_lost_is_refused() -> None:
    lost = Counter({"東": 3, "\x1b": 1})
    check_lost(lost, 20, 0.2)
    with pytest.raises(InputError) as refused:
        check_lost(lost, 19, 0.2)
    assert "4 of 19 characters (21 %)" in str(refused.value)
    assert "U+6771 東, U+001B), above the limit of 20 %" in str(refused.value)
    assert "--allow-lost" in str(refused.value)
    check_lost(lost, 4, 1.0)
