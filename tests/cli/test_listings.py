"""`foveate methods`, `foveate models`, --help and --version."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

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
    assert where["stack"] == "any"


def test_models_one_line_each(foveate: Foveate) -> None:
    lines = foveate("models").stdout.splitlines()
    assert len(lines) == len(FAMILIES)
    assert all(
        line.startswith(family.title) and key in line
        for line, (key, family) in zip(lines, FAMILIES.items(), strict=True)
    )
    listed = json.loads(foveate("models", "--json").stdout)
    assert {entry["model_type"] for entry in listed} == set(FAMILIES)


def test_version(foveate: Foveate) -> None:
    assert foveate("--version").stdout.strip() == f"foveate {__version__}"


@pytest.mark.parametrize("command", ["ask", "compare", "demo", "methods", "models", "render"])
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
