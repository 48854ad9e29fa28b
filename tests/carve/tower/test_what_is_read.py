"""Methods inside the tower are not charged for attention that they never look at."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import foveate
from foveate.carve.tower import merge
from tests.tiny_vlm import build, prompts


@pytest.mark.parametrize(("name", "reads"), [("tome", False), ("prune-and-merge", True)])
def test_received_attention_is_computed_only_if_read(
    name: str, reads: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []
    plain = merge.received_attention
    monkeypatch.setattr(
        merge, "received_attention", lambda *args: calls.append(args) or plain(*args)
    )
    model = build("llava")
    run = foveate.Run(model, foveate.method(name, keep_tokens=9))
    with run, torch.no_grad():
        model(**prompts(model, "llava", [1, 2]))
    assert run.report.fired
    assert bool(calls) == reads
