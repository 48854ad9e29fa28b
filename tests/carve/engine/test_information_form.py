"""The report says which form of the information score decided, and a forced one is used."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import foveate
from foveate.core import information
from tests import tiny_vlm as tiny


def report_of(
    model: Any, images: tuple[int, ...], share: float = 0.0, **settings: Any
) -> foveate.Report:
    inner = foveate.TokenCarve(keep_ratio=0.3, **settings)
    method = foveate.TextShare(inner=inner, share=share) if share else inner
    with foveate.attach(model, method) as run, torch.no_grad():
        model(**tiny.prompts(model, "llava", images))
    assert run.report is not None
    return run.report


@pytest.mark.parametrize("form", ["auto", "exact", "subspace", "norm"])
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_report_names_the_form(form: Any, share: float) -> None:
    model = tiny.build("llava")  # images of 36 tokens, width 48
    report = report_of(model, (1, 2), information_score=form, share=share)
    (note,) = report.notes
    width = model.config.text_config.hidden_size
    tokens = 36 - round(share * round(0.3 * 36))
    used = "exact" if form == "auto" else form
    assert note == ("information score", f"{used}, of {tokens} x {width} states")
    assert note in report.lines()
    assert f"{used}, of {tokens} x {width} states" in str(report)


def test_auto_turns_to_the_subspace(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.build("llava")
    exact = report_of(model, (1,))
    monkeypatch.setitem(information.EXACT_UP_TO, "cpu", 20)
    assert report_of(model, (1,)).notes[0][1].startswith("subspace")
    assert exact.notes[0][1].startswith("exact")


def test_methods_that_choose_nothing_have_no_note() -> None:
    model = tiny.build("llava")
    with foveate.attach(model, foveate.FastV(keep_ratio=0.3)) as run, torch.no_grad():
        model(**tiny.prompts(model, "llava", (1,)))
    assert run.report is not None
    assert run.report.notes == ()
