"""`foveate check`: of a folder with nothing but a configuration, of a type, of what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from foveate.models.twin import twin_config, typical_config
from tests.cli.conftest import Foveate


def test_a_configuration_is_enough(foveate: Foveate, tmp_path: Path) -> None:
    twin_config(typical_config("aya_vision")).save_pretrained(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["config.json"]
    found = json.loads(foveate("check", str(tmp_path), "--json").stdout)
    assert found["in_llm"]
    assert found["model_type"] == "aya_vision"
    assert found["cache_kinds"] == ["DynamicLayer", "DynamicSlidingWindowLayer"]
    assert set(found["findings"].values()) == {""}


def test_a_type_is_enough(foveate: Foveate) -> None:
    shown = foveate("check", "llava").stdout
    assert "LLaVA-1.5 (llava)" in shown
    assert "sdpa, eager" in shown
    assert "does not hold" not in shown


def test_a_refusal_has_a_code_of_its_own(foveate: Foveate) -> None:
    done = foveate("check", "mllama", code=1)
    assert "cross-attention" in done.stdout


def test_remote_code_is_never_run(foveate: Foveate, tmp_path: Path) -> None:
    (tmp_path / "evil.py").write_text("raise SystemExit('was run')")
    config = {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    done = foveate("check", str(tmp_path), code=2)
    assert "was run" not in done.stdout + done.stderr


@pytest.mark.parametrize("name", ["no/such/folder/at/all", "."])
def test_what_has_no_configuration(foveate: Foveate, name: str) -> None:
    assert "foveate:" in foveate("check", name, code=2).stderr
