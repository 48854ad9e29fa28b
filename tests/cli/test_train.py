"""`foveate train`: dry runs of the shipped recipes, and what it says when it cannot."""

from __future__ import annotations

from pathlib import Path

import pytest
from accelerate.state import AcceleratorState, GradientState
from typer.testing import CliRunner

from foveate.cli.main import app
from foveate.vist.train.recipe import load_recipe, recipe_names


@pytest.fixture(autouse=True)
def _fresh_accelerate() -> None:
    AcceleratorState._reset_state(True)
    GradientState._reset_state()


@pytest.mark.parametrize("name", recipe_names())
def test_shipped_recipes_run_dry(name: str) -> None:
    done = CliRunner().invoke(
        app,
        ["train", name, "--dry-run", "--cpu", "--set", "data.context=120", "--set", "data.tail=8",
         "--set", "stages.0.score_last=0", *(["--cepe"] if name.startswith("cepe-") else [])],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "dry run done: " in done.output
    assert "a checkpoint and a Vist were written" in done.output
    assert f"{load_recipe(name).stages[-1].name}: " in done.output


def test_a_run_is_left_and_resumed(tmp_path: Path) -> None:
    common = ["train", "vist-tinyllama-clip-l14", "--dry-run", "--cpu", "--output", str(tmp_path),
              "--set", "data.context=120"]  # fmt: skip
    first = CliRunner().invoke(app, [*common, "--stop-after", "1"])
    assert "dry run left after 1 steps" in first.output
    _fresh()
    again = CliRunner().invoke(app, common)
    assert again.exit_code == 2
    assert "--resume" in again.stderr
    _fresh()
    second = CliRunner().invoke(app, [*common, "--resume"])
    assert second.exit_code == 0, second.output
    assert (tmp_path / "vist" / "vist.json").exists()
    assert len((tmp_path / "history.jsonl").read_text().splitlines()) == 2


def _fresh() -> None:
    AcceleratorState._reset_state(True)
    GradientState._reset_state()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no-such-recipe"], "neither a file nor a recipe of foveate"),
        (["vist-smollm2-cpu", "--set", "run.batch=x"], "run.batch = 'x' should be a valid integer"),
        (["vist-smollm2-cpu", "--set", "data.files=['none.txt']"], "none.txt matches no file"),
        (["vist-smollm2-cpu", "--dry-run", "--set", "model.llm_type=gpt2"], "no tiny form"),
    ],
)
def test_mistakes_end_in_one_sentence(arguments: list[str], words: str) -> None:
    done = CliRunner().invoke(app, ["train", *arguments, "--cpu"])
    assert done.exit_code == 2
    assert done.stderr.startswith(("foveate: ", "Loading")) or "foveate: " in done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.output


def test_one_stage_and_the_rival_run_dry() -> None:
    common = ["train", "vist-smollm2-cpu", "--dry-run", "--cpu", "--set", "data.context=120",
              "--set", "data.tail=8"]  # fmt: skip
    done = CliRunner().invoke(app, [*common, "--stage", "distil"])
    assert done.exit_code == 0, done.output
    assert "dry run done: 2 steps" in done.output
    assert "read: " not in done.output
    _fresh()
    done = CliRunner().invoke(app, [*common, "--cepe", "--stage", "end-to-end"])
    assert done.exit_code == 0, done.output
    assert "vist-smollm2-cpu-cepe: " in done.stderr
    assert "dry run done: 2 steps" in done.output
