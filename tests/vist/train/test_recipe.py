"""Recipes: the shipped ones are sound, and mistakes are named field by field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from foveate.errors import ConfigError, InputError
from foveate.vist.config import GlanceConfig, ResamplerConfig
from foveate.vist.train.recipe import Recipe, load_recipe, recipe_names

SMALL: dict[str, Any] = {
    "name": "small",
    "model": {"llm": "somewhere"},
    "vist": {"resampler": {"width": 8}},
    "data": {"files": ["x.txt"]},
    "stages": [{"name": "only", "steps": 1, "lr": 1, "objectives": {"next_token": 1}}],
}


def changed(**parts: Any) -> dict[str, Any]:
    return {**json.loads(json.dumps(SMALL)), **parts}


@pytest.mark.parametrize("name", recipe_names())
def test_shipped_recipes_load_and_survive_json(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


def test_the_paper_s_recipe_has_the_paper_s_values() -> None:
    recipe = load_recipe("vist-tinyllama-clip-l14")
    (stage,) = recipe.stages
    assert (recipe.data.context, recipe.data.tail, recipe.vist.max_pages) == (4096, 512, 28)
    assert recipe.vist.resampler.num_latents == 64
    assert recipe.vist.resampler.width == 1024
    assert recipe.vist.fusion.form == "cross_attention"
    assert recipe.vist.fusion.layers is None  # every layer
    assert (stage.steps, stage.lr) == (2000, 3e-4)
    assert dict(stage.objectives) == {"next_token": 1.0, "pve": 1.0}
    optim = recipe.optim
    assert (optim.beta1, optim.beta2, optim.eps, optim.warmup) == (0.9, 0.999, 1e-8, 0.04)
    pve = recipe.objectives.pve
    assert (pve.temperature, pve.mask, pve.mask_share, pve.symmetric) == (
        0.07, "frequency", 0.5, False,
    )  # fmt: skip


def test_settings_reach_into_tables_and_lists() -> None:
    settings = ["run.batch=16", "stages.0.lr=0.5", 'data.files=["a", "b"]', "model.llm=my/model",
                "optim.warmup=0"]  # fmt: skip
    recipe = load_recipe("vist-smollm2-cpu", settings)
    assert recipe.run.batch == 16
    assert recipe.stages[0].lr == 0.5
    assert recipe.data.files == ("a", "b")
    assert recipe.model.llm == "my/model"
    assert recipe.optim.warmup == 0.0


def test_the_resampler_is_known_by_its_fields() -> None:
    plain = Recipe.from_dict(SMALL).vist.resampler
    assert isinstance(plain, ResamplerConfig)
    pointed = Recipe.from_dict(changed(vist={"resampler": {"width": 8, "inner": 16}}))
    assert isinstance(pointed.vist.resampler, GlanceConfig)


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"modle": {}}, "sets modle, which does not exist; a recipe has name, model"),
        ({"model": {}}, "lacks model.llm"),
        ({"model": {"llm": 3}}, "model.llm = 3 should be a valid string"),
        ({"model": {"llm": "a", "dtype": "int8"}},
         "model.dtype = 'int8' should be 'float32', 'bfloat16' or 'float16'"),
        ({"model": "a"}, "model = 'a' should be an object"),
        ({"data": {"files": "x.txt"}}, "data.files = 'x.txt' should be a valid array"),
        ({"data": {"files": ["x.txt"], "context": True}},
         "data.context = True should be a valid integer"),
        ({"data": {"files": [3]}}, "data.files.0 = 3 should be a valid string"),
        ({"model": {"dtype": 1}, "run": {"batsch": 2}},
         "lacks model.llm; add it. model.dtype = 1 should be .*sets run.batsch.*; run has batch"),
        ({"data": {}}, "neither files nor hub; give one"),
        ({"data": {"files": ["x"], "hub": "y"}}, "both files and hub"),
        ({"data": {"files": ["x"], "context": 0}}, "data got context=0"),
        ({"vist": {"resampler": {"width": 8, "depth": 1}}}, r"sets vist\.resampler\.depth"),
        ({"vist": {"resampler": {"width": 8, "inner": "16"}}},
         "^vist.resampler.inner = '16' should be a valid integer.$"),
        ({"vist": {"resampler": {"width": 8, "inner": 16, "num_latents": 63}}},
         "^GlanceConfig got num_latents=63 with run=4"),
        ({"stages": []}, "no stages"),
        ({"stages": [{"name": "a", "steps": 1, "lr": 1.0, "objectives": {"ntp": 1.0}}]},
         "stage 'a' names unknown objectives ntp"),
        ({"stages": [{"name": "a", "steps": 0, "lr": 1.0, "objectives": {"pve": 1.0}}]},
         "stage 'a' got steps=0"),
        ({"stages": [{"name": "a", "steps": 1, "lr": 1.0, "objectives": {"read": 1.0}}]},
         r"no \[objectives.targets\]"),
        ({"stages": 2 * SMALL["stages"]}, "named only, only; give each its own name"),
        ({"run": {"batch": 0}}, "run got batch=0"),
        ({"optim": {"warmup": 1.0}}, "OptimConfig got warmup=1.0"),
        ({"objectives": {"targets": {"choice": "rare"}}}, "objectives.counts"),
        ({"vist": {"resampler": {"width": 8, "inner": 16}}, "objectives": {"targets": {}}},
         "pointed at tokens"),
        ({"vist": {"resampler": {"width": 8}, "fusion": {"form": "cross_attention"}},
          "objectives": {"targets": {}},
          "stages": [{"name": "a", "steps": 1, "lr": 1.0, "objectives": {"distil": 1.0}}]},
         "use form='kv_prefix', or tail_kl"),
    ],
)  # fmt: skip
def test_mistakes_are_named(parts: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Recipe.from_dict(changed(**parts))


def test_a_setting_replaces_what_is_at_its_place() -> None:
    recipe = load_recipe(
        "vist-smollm2-cpu",
        ['data.files=["a", "a"]', "data.files.1=b", "stages.0.objectives={next_token=1}"],
    )
    assert recipe.data.files == ("a", "b")
    assert recipe.stages[0].objectives == {"next_token": 1.0}


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("run.batch", "write key=value"),
        ("stages.7.lr=1", "'7' is no place in a list of 2"),
        ("name.x=1", "'x' lies below a value"),
        ("run.batsch=1", r"sets run\.batsch"),
    ],
)
def test_settings_that_do_not_fit_are_named(setting: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_recipe("vist-smollm2-cpu", [setting])


def test_files_that_are_no_recipes_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"neither a file nor a recipe of foveate.*vist-smollm2"):
        load_recipe("vist-gpt4")
    (tmp_path / "x.toml").write_text("a = [")
    with pytest.raises(InputError, match="not a TOML file"):
        load_recipe(tmp_path / "x.toml")


def test_steps_know_their_stage() -> None:
    recipe = load_recipe("vist-smollm2-cpu")
    first = recipe.stages[0].steps
    assert recipe.stage_at(0) == (0, 0)
    assert recipe.stage_at(first - 1) == (0, first - 1)
    assert recipe.stage_at(first) == (1, 0)
    with pytest.raises(ConfigError, match="lies beyond"):
        recipe.stage_at(recipe.num_steps)


def test_some_stages_of_a_recipe() -> None:
    recipe = load_recipe("vist-smollm2-cpu")
    assert [s.name for s in recipe.only(["end-to-end", "distil"]).stages] == [
        "distil",
        "end-to-end",
    ]
    with pytest.raises(ConfigError, match="'rest' is not in the recipe; it has distil"):
        recipe.only(["rest"])


def test_parts_to_start_from_are_given_by_folder() -> None:
    recipe = load_recipe("vist-smollm2-cpu", ['model.init={"out/a"=["resampler"], "b"=[]}'])
    assert recipe.model.init == {"out/a": ("resampler",), "b": ()}


def test_a_recipe_laid_over_another(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(
        'base = "vist-smollm2-cpu"\nname = "mine"\n[data]\ncontext = 40\nfiles = ["a.txt"]\n'
    )
    base, mine = load_recipe("vist-smollm2-cpu"), load_recipe(tmp_path / "mine.toml")
    assert (mine.name, mine.data.context, mine.data.files) == ("mine", 40, ("a.txt",))
    assert (mine.data.tail, mine.stages, mine.vist) == (base.data.tail, base.stages, base.vist)
    (tmp_path / "twice.toml").write_text('base = "mine.toml"\n')
    with pytest.raises(ConfigError, match="has a base itself; name that one"):
        load_recipe(tmp_path / "twice.toml")
