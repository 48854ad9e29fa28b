"""The ablations' driver, on tiny models: every row is a training of its own and is scored."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from benchmarks.vist_ablations import ROWS, measure, recipe_of
from foveate.tasks.documents import Document
from foveate.vist.eval.perplexity_targets import PerplexitySettings
from foveate.vist.train.build import tiny_recipe
from foveate.vist.train.recipe import load_recipe

SETTINGS = PerplexitySettings(
    contexts=(40,), score=8, windows=1, arms=("raw", "vist", "vist-shuffled"), resamples=50
)


def documents() -> list[Document]:
    lot = random.Random(1)
    words = ["lamo", "tiru", "kepo", "du"]
    return [
        Document(id=f"d{i}", domain="made-up", text=" ".join(lot.choices(words, k=200)))
        for i in range(3)
    ]


@pytest.mark.parametrize("name", ["32 latents", "cross-attention (no distillation)"])
def test_a_row_is_trained_and_scored(name: str, tmp_path: Path) -> None:
    base = tiny_recipe(load_recipe("vist-smollm2-cpu", ["data.files=['-']"]))
    wanted = recipe_of(ROWS[name], base, steps=2, lr=1e-3)
    assert wanted.vist.fusion.form == ROWS[name].form
    found = measure(wanted, True, tmp_path, documents(), SETTINGS)
    assert set(found["last_losses"]) == set(ROWS[name].objectives)
    assert 0 < found["entries"] < found["tokens"] == 40
    assert found["documents"] == 3
    assert found["gain"]["low"] <= found["gain"]["value"] <= found["gain"]["high"]


def test_rows_differ_in_what_they_say() -> None:
    base = load_recipe("vist-smollm2-cpu", ["data.files=['-']"])
    whole = recipe_of(ROWS["all"], base, steps=5, lr=1e-3)
    assert whole.stages[0].objectives["distil"]
    for name, row in ROWS.items():
        other = recipe_of(row, base, steps=5, lr=1e-3)
        assert (other == whole) == (name == "all")
