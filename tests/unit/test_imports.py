"""Imports point one way, and only one folder knows transformers."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "foveate"
FILES = sorted(PACKAGE.rglob("*.py"))

# layer -> layers of the package it may import (and itself)
ALLOWED = {
    "core": {"errors"},
    "prune": {"core", "errors"},
    "draw": {"core", "errors", "tasks"},
    "tasks": {"errors"},
    "vist": {"core", "errors"},
    "hf": {"core", "prune", "vist", "errors", "embedded", "draw"},
    "train": {"core", "vist", "hf", "errors", "embedded", "draw"},
    "engines": {"core", "prune", "vist", "hf", "measure", "tasks", "errors", "embedded", "draw"},
    "app": {"core", "prune", "vist", "hf", "measure", "tasks", "errors", "embedded", "draw"},
}
# What stands on everything else: nothing below may import it.
TOP = ("engines", "app", "cli", "__main__.py")


def imported(path: Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.append(node.module)
    return names


def name_of(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def layer_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0]


def is_script(path: Path) -> bool:
    """Training scripts are run by hand, and talk."""
    return layer_of(path) == "embedded" or 'if __name__ == "__main__"' in path.read_text()


@pytest.mark.parametrize("path", [p for p in FILES if layer_of(p) != "hf"], ids=name_of)
def test_only_hf_imports_transformers(path: Path) -> None:
    assert not [n for n in imported(path) if n.split(".")[0] in ("transformers", "tokenizers")]


@pytest.mark.parametrize("path", [p for p in FILES if layer_of(p) in ALLOWED], ids=name_of)
def test_layers_import_downwards(path: Path) -> None:
    layer = layer_of(path)
    for name in imported(path):
        parts = name.split(".")
        if parts[0] == "foveate" and len(parts) > 1 and parts[1] != layer:
            assert parts[1] in ALLOWED[layer], f"{layer} imports {name}"


@pytest.mark.parametrize("path", [p for p in FILES if layer_of(p) not in TOP], ids=name_of)
def test_nothing_imports_the_top_layers(path: Path) -> None:
    named = [n.split(".") for n in imported(path)]
    assert not [n for n in named if n[0] == "foveate" and len(n) > 1 and n[1] in TOP]


def test_only_its_adapter_imports_lmms_eval() -> None:
    users = [p for p in FILES if any(n.split(".")[0] == "lmms_eval" for n in imported(p))]
    assert [name_of(path) for path in users] == ["engines/lmms_eval.py"]


def test_only_its_folder_imports_vllm() -> None:
    users = [p for p in FILES if any(n.split(".")[0] == "vllm" for n in imported(p))]
    assert users
    assert {str(path.parent.relative_to(PACKAGE)) for path in users} == {"engines/vllm"}


def test_the_vllm_plugin_needs_no_transformers() -> None:
    """vLLM has its own, of another version than foveate/hf may want."""
    for path in FILES:
        if "engines/vllm/" in str(path):
            names = [name.split(".") for name in imported(path)]
            assert not [n for n in names if n[:2] == ["foveate", "hf"]], name_of(path)


def test_only_the_page_and_its_server_import_gradio() -> None:
    users = [p for p in FILES if any(n.split(".")[0] == "gradio" for n in imported(p))]
    assert [name_of(path) for path in users] == ["app/page.py", "app/serve.py"]


def test_importing_foveate_is_light_and_silent() -> None:
    code = "import sys, foveate; print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert done.stderr == ""


@pytest.mark.parametrize(
    "path", [p for p in FILES if layer_of(p) != "cli" and not is_script(p)], ids=name_of
)
def test_only_the_command_line_prints(path: Path) -> None:
    source = path.read_text()
    calls = [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "print"
    ]
    assert not calls
