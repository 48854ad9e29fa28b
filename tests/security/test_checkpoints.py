"""A vist.json, a memory or a recipe from a stranger: refused before it costs or asks anything."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file

from foveate.carve.spec import parse_method
from foveate.core.budget import Budget
from foveate.errors import ConfigError, FoveateError, InputError, MethodError
from foveate.models.load import load_vlm
from foveate.vist.latents.memory import Memory
from foveate.vist.run import load
from foveate.vist.run.vist import Vist
from foveate.vist.train.recipe import find_recipe, load_recipe
from tests.vist import tiny_vist

Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tiny_vist.vist(tiny_vist.model(), "embeddings")
    made.save_pretrained(tmp_path / "vist", base="owner/model")
    return tmp_path / "vist"


@pytest.fixture(autouse=True)
def _nothing_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """No model is looked up or loaded before a file has passed."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError(f"asked for {args}")

    monkeypatch.setattr(load, "load_base", refuse)
    monkeypatch.setattr(load, "load_vision_encoder", refuse)


def spoil(folder: Path, change: Change) -> None:
    path = folder / "vist.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c["base"].update(revision=""), "names its base model 'owner/model' on the hub "
         "without the commit it was trained with"),
        (lambda c: c["base"].update(revision="main"), "without the commit"),
        (lambda c: c["base"].update(name=["x"]), "a reference got name="),
        (lambda c: c["base"].update(name="x" * 5000), "a reference got name="),
        (lambda c: c["base"].update(sha256="beef"), "a reference got sha256='beef'"),
        (lambda c: c["config"]["resampler"].update(width=10**9), "above the limit of 65,536"),
        (lambda c: c["config"]["resampler"].update(num_latents=5000), "above the limit of 4,096"),
        (lambda c: c["config"]["resampler"].update(ff_mult=1000), "above the limit of 64"),
        (lambda c: c["config"]["resampler"].update(layers=10**6), "above the limit of 1,024"),
        (lambda c: c["config"]["resampler"].update(heads=1e9), "use a positive integer"),
        (lambda c: c["config"]["resampler"].update(width=50_000), "is .*, vist.json asks for"),
        (lambda c: c["config"].update(max_pages=-1), "use a positive integer"),
        (lambda c: c["config"].update(resampler=5), "lacks or misnames a field"),
        (lambda c: c["shape"].update(num_layers=10**9), "num_layers=1000000000"),
        (lambda c: c["shape"].update(head_dim=-4), "head_dim=-4"),
        (lambda c: c.update(encoder={"name": "owner/tower", "sha256": "0" * 64,
                                     "kind": "vision_tower", "revision": "main"}),
         "names its (base model|encoder) 'owner/(model|tower)' on the hub without the commit"),
        (lambda c: c.update(encoder={"name": "t", "sha256": "", "kind": "vision_tower",
                                     "options": {"attn_implementation": "evil/kernel"}}),
         "without the commit|options attn_implementation of the vision tower"),
    ],
)  # fmt: skip
def test_a_strangers_vist(folder: Path, change: Change, words: str) -> None:
    spoil(folder, change)
    with pytest.raises(FoveateError, match=words):
        Vist.from_pretrained(folder)


def test_a_pinned_vist_is_asked_for(folder: Path) -> None:
    """The control: a sound file gets as far as its base."""
    spoil(folder, lambda c: c["base"].update(revision="0" * 40))
    with pytest.raises(AssertionError, match="asked for"):
        Vist.from_pretrained(folder)


@pytest.mark.parametrize(
    ("text", "words"),
    [("[" * 100_000, "nested too deeply"), (" " * (2 << 20), "more than 1,048,576 bytes"),
     ("[1]", "it holds no object"), ("{", "is broken")],
    ids=["deep", "large", "list", "torn"],
)  # fmt: skip
def test_a_file_that_is_no_vist(folder: Path, text: str, words: str) -> None:
    (folder / "vist.json").write_text(text)
    with pytest.raises(InputError, match=words):
        Vist.from_pretrained(folder)


@pytest.mark.skipif(os.name == "nt", reason="pipes as on Unix")
def test_a_pipe_for_a_vist(folder: Path) -> None:
    (folder / "vist.json").unlink()
    os.mkfifo(folder / "vist.json")
    with pytest.raises(InputError, match="is a pipe, a device or a socket"):
        Vist.from_pretrained(folder)


def test_another_tokenizer_is_refused() -> None:
    other = tiny_vist.tokenizer()
    other.add_tokens(["another word"])
    reference = load.base_reference(tiny_vist.model(), tiny_vist.tokenizer(), "x", None)
    assert len(reference.tokenizer) == 64
    load.check_tokenizer(reference, tiny_vist.tokenizer())
    with pytest.raises(InputError, match="was trained with another tokenizer of x"):
        load.check_tokenizer(reference, other)


@pytest.mark.parametrize("entry", ["_attn_implementation", "attn_implementation"])
def test_a_config_that_names_a_kernel_of_the_hub(tmp_path: Path, entry: str) -> None:
    import shutil

    from foveate.assets import vlm_path

    folder = Path(shutil.copytree(vlm_path(), tmp_path / "vlm"))
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, entry: "evil/kernel"}))
    with pytest.raises(InputError, match="asks for the attention kernel 'evil/kernel', code that"):
        load_vlm(folder)


@pytest.mark.parametrize(
    ("about", "words"),
    [({"num_tokens": -5}, "num_tokens=-5; it must be a whole number from 0"),
     ({"num_tokens": 1 << 50}, "num_tokens=1125899906842624"),
     ({"num_tokens": True}, "num_tokens=True"),
     ({"num_tokens": 3, "num_pages": -1}, "num_pages=-1"),
     ({"num_tokens": 3, "encoder": 5}, "encoder=5; it must be a text")],
)  # fmt: skip
def test_a_strangers_memory(tmp_path: Path, about: dict[str, Any], words: str) -> None:
    tensors = {"latents": torch.zeros(2, 4), "positions": torch.zeros(2)}
    path = tmp_path / "memory.safetensors"
    save_file(tensors, str(path), metadata={"foveate_memory": json.dumps(about)})
    with pytest.raises(InputError, match=words):
        Memory.load(path)
    save_file(tensors, str(path), metadata={"foveate_memory": "[" * 100_000})
    with pytest.raises(InputError, match="is not a memory written by foveate"):
        Memory.load(path)


@pytest.mark.parametrize("name", ["../out", "a/b", "..", ".hidden", "", "a" * 200, "a\nb"])
def test_a_recipes_name_stays_in_its_folder(tmp_path: Path, name: str) -> None:
    text = find_recipe("vist-smollm2-cpu").read_text()
    path = tmp_path / "recipe.toml"
    lines = [f"name = {json.dumps(name)}" if line.startswith("name =") else line
             for line in text.splitlines()]  # fmt: skip
    path.write_text("\n".join(lines))
    with pytest.raises(ConfigError, match="is no plain name; use letters, digits"):
        load_recipe(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [("x = " + "[" * 5000 + "]" * 5000, "is not a TOML file that can be read"),
     ("x = 1\n" * 300_000, "is not a TOML file that can be read")],
    ids=["deep", "large"],
)  # fmt: skip
def test_a_recipe_that_is_too_much(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=words):
        load_recipe(path)
    with pytest.raises(FoveateError):
        load_recipe("vist-smollm2-cpu", [f"run.batch={'[' * 5000}"])


@pytest.mark.parametrize(
    "text", ["fastv" * 20_000, "+".join(["fastv:50%"] * 30_000), "tokencarve(" * 50_000]
)
def test_a_method_of_a_hundred_thousand_signs(text: str) -> None:
    with pytest.raises(MethodError, match="above the limit of 2,000; it begins with"):
        parse_method(text, Budget(keep_ratio=0.5))


def test_no_remote_code_is_ever_allowed() -> None:
    """The whole package says so wherever it loads."""
    root = Path(load.__file__).parents[3] / "foveate"
    found = [path for path in root.rglob("*.py") if "trust_remote_code=True" in path.read_text()]
    assert found == []
    assert transformers.__version__


@pytest.mark.parametrize(
    ("latents", "positions", "words"),
    [
        (torch.full((2, 4), float("nan")), torch.zeros(2), "not finite"),
        (torch.zeros(2, 4), torch.tensor([0.0, -1e9]), "outside of its 3 tokens"),
        (torch.zeros(2, 4), torch.tensor([0.0, 1e9]), "outside of its 3 tokens"),
        (torch.zeros(2, 4, dtype=torch.long), torch.zeros(2), "latents must be floating point"),
        (torch.zeros(2, 4, dtype=torch.cfloat), torch.zeros(2), "latents must be floating point"),
    ],
)
def test_a_memory_whose_values_cannot_be(
    tmp_path: Path, latents: torch.Tensor, positions: torch.Tensor, words: str
) -> None:
    path = tmp_path / "memory.safetensors"
    about = {"foveate_memory": json.dumps({"num_tokens": 3})}
    save_file({"latents": latents, "positions": positions}, str(path), metadata=about)
    with pytest.raises(InputError, match=words):
        Memory.load(path)


@pytest.mark.skipif(os.name == "nt", reason="pipes as on Unix")
def test_pipes_for_weights_and_memories(folder: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "memory")
    with pytest.raises(InputError, match="is a pipe, a device or a socket"):
        Memory.load(tmp_path / "memory")
    (folder / "vist.safetensors").unlink()
    os.mkfifo(folder / "vist.safetensors")
    with pytest.raises(InputError, match="is a pipe, a device or a socket"):
        Vist.from_pretrained(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c["config"]["fusion"].update(rotary="no"), "rotary='no'; use true or false"),
        (lambda c: c["config"]["fusion"].update(lora_scale=-1), "lora_scale=-1"),
        (lambda c: c["config"]["fusion"].update(lora_scale=10**30), "lora_scale=1000"),
        (lambda c: c.update(training=[1]), "training=.* is no object"),
    ],
)
def test_settings_that_change_the_answer(folder: Path, change: Change, words: str) -> None:
    spoil(folder, change)
    with pytest.raises(FoveateError, match=words):
        Vist.from_pretrained(folder)


@pytest.mark.parametrize("name", ["", None, 5, "n" * 400, "a\0b"])
def test_what_is_no_folder_and_no_id(name: Any) -> None:
    with pytest.raises(InputError, match=r"give (a folder, or a hub id|one written by)"):
        Vist.from_pretrained(name)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("divprune:50%():20%+fastv", "gives its budget twice"),
        ("fastv(prune_layer=2,prune_layer=3)", "prune_layer is set twice"),
    ],
)
def test_a_method_string_that_says_two_things(text: str, words: str) -> None:
    with pytest.raises(MethodError, match=words):
        parse_method(text, Budget(keep_ratio=0.5))
