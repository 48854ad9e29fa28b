"""`foveate methods`, `foveate models`, --help and --version."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from foveate.carve.check import known
from foveate.carve.check.known import zoo_types
from foveate.carve.method import METHODS
from foveate.models.families import FAMILIES
from foveate.version import __version__
from tests.cli.conftest import Foveate


def test_methods_one_line_each(foveate: Foveate) -> None:
    lines = foveate("methods").stdout.splitlines()
    assert [line.split()[0] for line in lines] == sorted(METHODS)
    assert all(METHODS[line.split()[0]].summary in line for line in lines)
    listed = json.loads(foveate("methods", "--json").stdout)
    assert [entry["name"] for entry in listed] == sorted(METHODS)
    assert {entry["origin"] for entry in listed} == {"foveate"}
    where = {entry["name"]: entry["where"] for entry in listed}
    assert where["tome"] == "vision_tower"
    assert where["divprune"] == "encoder"
    assert where["stack"] == where["text-share"] == "any"


def test_models_one_line_each(foveate: Foveate) -> None:
    lines = foveate("models").stdout.splitlines()
    assert sorted(line.split()[0] for line in lines) == zoo_types()
    listed = {one["model_type"]: one for one in json.loads(foveate("models", "--json").stdout)}
    assert sorted(listed) == zoo_types()
    assert set(FAMILIES) <= {kind for kind, one in listed.items() if one["in_llm"]}
    assert listed["qwen2_vl"]["video"]
    assert "cross-attention" in listed["mllama"]["refusal"]
    assert all(one["summary"] in "\n".join(lines) for one in listed.values())


def test_models_says_what_no_result_knows(
    foveate: Foveate, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(known, "zoo_path", lambda: tmp_path / "none.json")
    assert all("not tried" in line for line in foveate("models").stdout.splitlines())


def test_version(foveate: Foveate) -> None:
    assert foveate("--version").stdout.strip() == f"foveate {__version__}"


@pytest.mark.parametrize(
    "command", ["ask", "check", "compare", "demo", "knockout", "methods", "models", "render"]
)
def test_every_command_has_help(foveate: Foveate, command: str) -> None:
    assert "Usage" in foveate(command, "--help").stdout
    assert command in foveate("--help").stdout


def test_help_needs_no_heavy_import() -> None:
    script = (
        "import sys; from foveate.cli.main import app; "
        "print([m for m in ('torch', 'transformers', 'matplotlib', 'PIL') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
