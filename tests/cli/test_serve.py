"""`foveate serve`: what it prints, and that it becomes vLLM."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import foveate as package
from foveate.assets import vlm_path
from foveate.carve.profile import ModelId, Profile
from foveate.cli import serve as module
from foveate.models.load import load_config, weights_of_files
from foveate.vllm import command
from foveate.vllm.settings import method_of
from tests.cli.conftest import Foveate


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """vLLM as if it were installed; what it was started with."""
    found: list[list[str]] = []
    monkeypatch.setattr(command, "check_installed", lambda environment: None)
    monkeypatch.setattr(module.os, "execv", lambda path, words: found.append([path, *words]))
    return found


def test_it_becomes_vllm(foveate: Foveate, started: list[list[str]]) -> None:
    done = foveate("serve", "embedded", "--keep", "64", "--port", "8001", "--enforce-eager")
    assert done.exit_code == 0
    assert "foveate: 64 of the 196 visual tokens of an image go on" in done.stderr
    (words,) = started
    assert words[:2] == [sys.executable, sys.executable]
    assert words[-3:-1] == ["--enforce-eager", "--additional-config"]
    assert words[words.index("--port") + 1] == "8001"
    assert json.loads(words[-1]) == {"foveate": {"method": "tokencarve", "keep_tokens": 64}}


def test_a_budget_above_the_image(foveate: Foveate, started: list[list[str]]) -> None:
    done = foveate("serve", "embedded", "--keep", "500", ok=False)
    assert done.exit_code == 2
    assert "keep_tokens=500 exceeds the 196 visual tokens of image 0" in done.stderr
    assert not started


def test_a_method_that_reads_the_question(foveate: Foveate, started: list[list[str]]) -> None:
    done = foveate("serve", "embedded", "--method", "sparsevlm", ok=False)
    assert done.exit_code == 2
    assert "sparsevlm cuts between decoder layers" in done.stderr
    assert not started


def test_ages_go_on_in_place_of_a_budget(foveate: Foveate, started: list[list[str]]) -> None:
    done = foveate("serve", "embedded", "--ages", "50%,10%", "--age-step", "4")
    assert done.exit_code == 0
    assert "foveate: 98 of the 196 visual tokens of an image go on" in done.stderr
    assert json.loads(started[0][-1]) == {
        "foveate": {"method": "tokencarve", "ages": [0.5, 0.1], "age_step": 4}
    }


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--ages", "50%", "--keep", "25%"], "--keep 25% and --ages 50% are given; give one"),
        (["--ages", "10%,50%"], "ages=[0.1, 0.5] rise; older images cannot keep more"),
        (["--ages", "50%,16"], "ages '50%,16' has '16', which is no share of an image's tokens"),
    ],
)
def test_ages_that_cannot_be(
    foveate: Foveate, started: list[list[str]], options: list[str], text: str
) -> None:
    done = foveate("serve", "embedded", *options, ok=False)
    assert done.exit_code == 2
    assert text in done.stderr
    assert not started


def profile(path: Path, method: package.Method, weights: str = "") -> Path:
    own = weights_of_files(str(vlm_path()), load_config(str(vlm_path())))
    model = ModelId(name="embedded model", type="llava", weights=weights or own)
    Profile(method=method, model=model).save(path / "profile.toml")
    return path / "profile.toml"


def test_a_profile(foveate: Foveate, started: list[list[str]], tmp_path: Path) -> None:
    """vLLM gets the very settings that were tuned."""
    method = package.DivPrune(keep_tokens=50)
    foveate("serve", "embedded", "--profile", profile(tmp_path, method))
    (words,) = started
    settings = json.loads(words[-1])
    assert settings == {"foveate": {"method": method.to_dict()}}
    served = method_of(settings)
    assert served is not None
    assert served.budget == method.budget
    with pytest.raises(package.FoveateError, match="say the budget too"):
        method_of({"foveate": {**settings["foveate"], "keep_ratio": 0.5}})


@pytest.mark.parametrize(
    ("method", "weights", "words"),
    [
        (package.FastV(keep_ratio=0.5), "", "cuts behind decoder layer 0, and in vLLM it would"),
        (package.TokenCarve(keep_ratio=0.5), "", "cuts behind decoder layer 0"),
        (package.DivPrune(keep_ratio=0.5), "beef", "load the model as it was tuned"),
    ],
)
def test_a_profile_that_cannot_be_served(
    foveate: Foveate,
    started: list[list[str]],
    tmp_path: Path,
    method: package.Method,
    weights: str,
    words: str,
) -> None:
    done = foveate("serve", "embedded", "--profile", profile(tmp_path, method, weights), code=2)
    assert words in done.stderr
    assert not started
