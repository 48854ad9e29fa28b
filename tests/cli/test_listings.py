"""`foveate methods`, `foveate models`, --help and --version."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from foveate.carve.check import known
from foveate.carve.check.known import zoo_types
from foveate.carve.method import METHODS
from foveate.cli.console import _least_width, out, print_table, titled_table
from foveate.cli.main import app
from foveate.models.families import FAMILIES
from foveate.version import __version__
from tests.cli.conftest import Foveate
from tests.fuzz.cases import command_names


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


@pytest.mark.parametrize("name", command_names())
def test_help_is_readable_at_40_columns(name: str) -> None:
    narrow = {"COLUMNS": "40", "NO_COLOR": "1"}
    said = CliRunner().invoke(app, [*name.split(), "--help"], env=narrow).stdout
    assert max(map(len, said.splitlines())) <= 40, said
    assert "\u2026" not in said
    assert "\x1b" not in said
    wide = CliRunner().invoke(app, [*name.split(), "--help"], env={"COLUMNS": "120"}).stdout
    options = set(re.findall(r"--[a-z-]{3,}", wide))
    assert options
    assert options <= set(re.findall(r"--[a-z-]{3,}", said))


def test_a_table_wider_than_the_terminal_becomes_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    table = titled_table("of two", caption="the end")
    table.add_column("method", overflow="fold")
    for name in ("kept", "accuracy %"):
        table.add_column(name, no_wrap=True)
    table.add_row("foveacarve", "49 (25%)", r"100.0 \[21, 100]")
    monkeypatch.setattr(out, "_width", 80)
    print_table(table)
    assert "foveacarve  49 (25%)  100.0 [21, 100]" in capsys.readouterr().out
    monkeypatch.setattr(out, "_width", 30)
    print_table(table)
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["of two", "foveacarve", "  kept: 49 (25%)", "  accuracy %: 100.0 [21, 100]",
                     "the end"]  # fmt: skip


def test_the_table_of_a_comparison_fits_80_columns_with_whole_names() -> None:
    row = ("foveacarve", "49 (25.1%)", r"100.0 \[21, 100]", r"-50.0 \[-79, +79]", "0.52", "0.43",
           "0.28")  # fmt: skip
    table = titled_table("x")
    for number, name in enumerate(
        ("method", "kept", "accuracy %", "minus full", "prefill", "FLOPs", "KV")
    ):
        table.add_column(name, no_wrap=number > 0)
    table.add_row(*row)
    assert _least_width(table) <= 80


def test_help_needs_no_heavy_import() -> None:
    script = (
        "import sys; from foveate.cli.main import app; "
        "print([m for m in ('torch', 'transformers', 'matplotlib', 'PIL') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
