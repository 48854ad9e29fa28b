"""`foveate knockout` on a tiny checkpoint that can only read in one layer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from foveate.carve.compare.knockout import reading_curve
from foveate.carve.spec import parse_method
from foveate.core.budget import Budget
from foveate.models.load import load_vlm
from foveate.tasks.named import load_questions
from tests.cli.conftest import Foveate

ASKED = ("knockout", "--data", "easy-vqa", "--limit", "5", "--batch-size", "2")


@pytest.fixture
def reads_in_layer_2(broken: Path) -> Path:
    vlm = load_vlm(broken)
    with torch.no_grad():
        for index, layer in enumerate(vlm.model.base_model.language_model.layers):
            if index != 2:
                layer.self_attn.o_proj.weight.zero_()
    vlm.model.save_pretrained(broken)
    return broken


def test_it_names_the_layer(foveate: Foveate, reads_in_layer_2: Path) -> None:
    found = json.loads(foveate(*ASKED, "--model", reads_in_layer_2, "--json").stdout)
    assert found["questions"] == 5
    assert found["look_depth"] == 0.5
    nats = found["nats"]
    assert max(nats[:2] + nats[3:]) < 1e-9 < nats[2]
    parse_method(found["method"], Budget(keep_ratio=0.25))
    vlm = load_vlm(reads_in_layer_2)
    questions = load_questions("easy-vqa", limit=5)
    inputs = vlm.inputs([q.question for q in questions], [q.image for q in questions])
    assert nats == pytest.approx(reading_curve(vlm.model, [inputs]), rel=1e-4, abs=1e-9)


def test_the_table(foveate: Foveate, reads_in_layer_2: Path) -> None:
    shown = foveate(*ASKED, "--model", reads_in_layer_2).stdout
    assert "It reads most in layer 2: --method 'foveacarve(look_depth=0.5)'" in shown
    assert shown.count("#" * 30) == 1


def test_a_batch_of_nothing(foveate: Foveate) -> None:
    assert "raise it" in foveate("knockout", "--batch-size", "0", code=2).stderr
