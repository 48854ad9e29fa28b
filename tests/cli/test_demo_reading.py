"""The demo on far text: real figures with their controls, or why there are none."""

from __future__ import annotations

import pytest

from foveate.cli import demo_reading
from foveate.models import smollm2
from tests.wheel import needs_smollm2


def test_without_the_language_model_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(smollm2.importlib.util, "find_spec", lambda name: None)
    demo_reading.show_far_reading()
    shown = " ".join(capsys.readouterr().out.split())
    assert f"Left out: its language model is not installed. {smollm2.INSTALL}" in shown


@needs_smollm2
def test_the_controls_stand_beside_the_pictures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo_reading, "PAGES", 1)
    demo_reading.show_far_reading()
    lines = map(str.split, capsys.readouterr().out.splitlines())
    rows = {words[0]: words for words in lines if words}
    assert {"none", *demo_reading.SHOWN} <= rows.keys()
    assert int(rows["vist"][1]) < int(rows["raw"][1]) / 2.7
    assert rows["vist"][1] == rows["truncated"][1]
