"""Every Python block of the documentation runs."""

from __future__ import annotations

import doctest
import importlib
import re
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch

import foveate
from foveate.core.visual import VisualTokens
from tests.wheel import needs_smollm2

ROOT = Path(__file__).resolve().parents[2]


def python_blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.S)


def test_readme_example(capsys: pytest.CaptureFixture[str]) -> None:
    carve, _ = python_blocks("README.md")
    names: dict[str, Any] = {}
    exec(carve, names)
    shown = capsys.readouterr().out
    assert shown.startswith("what is the price of cake? 69 (the page says 69)\n")
    assert re.findall(r"import .*", carve) == ["import foveate"]
    assert "196 -> 48 kept" in shown
    assert names["run"].report.fired


@needs_smollm2
def test_readme_example_of_far_text(capsys: pytest.CaptureFixture[str]) -> None:
    _, far = python_blocks("README.md")
    names: dict[str, Any] = {}
    exec(far, names)
    assert "latents" in capsys.readouterr().out
    assert names["memory"].num_latents < names["memory"].num_tokens / 2.7
    assert names["out"].shape[1] > names["prompt"]["input_ids"].shape[1]


@needs_smollm2
def test_example_of_the_embedded_vist_s_card(capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = python_blocks("foveate/assets/vist/README.md")
    exec(block, {})
    tokens, latents = map(int, capsys.readouterr().out.split())
    assert latents < tokens / 2.7


@pytest.mark.usefixtures("own_methods")
def test_add_a_method_example(monkeypatch: pytest.MonkeyPatch) -> None:
    block, _ = python_blocks("docs/add-a-method.md")  # tests/carve/test_packages.py installs both
    example = types.ModuleType("example")
    monkeypatch.setitem(sys.modules, "example", example)
    names = vars(example)
    exec(block, names)
    method = names["LargestNorm"](keep_tokens=2)
    hidden = torch.tensor([[[1.0], [5.0], [0.0], [-3.0]]])
    plan = method.plan(VisualTokens(hidden=hidden), 2)
    plan.check(2)
    assert plan.keep_idx.tolist() == [[1, 3]]
    assert foveate.METHODS["norm"] is names["LargestNorm"]


def test_where_a_question_reads_example() -> None:
    (block,) = python_blocks("docs/methods.md")
    names: dict[str, Any] = {}
    exec(block, names)
    assert len(names["curve"]) == 8
    assert names["method"].look_depth == 0.375


def test_profile_example(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (block,) = python_blocks("docs/tune.md")
    monkeypatch.chdir(tmp_path)  # it writes a file
    names: dict[str, Any] = {}
    exec(block, names)
    assert capsys.readouterr().out.strip()
    assert names["run"].report.fired


def test_rendering_example(capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = python_blocks("docs/rendering.md")
    exec(block, {})
    assert capsys.readouterr().out.splitlines() == [
        "(1, 14, 3584) 21 patches used",
        "context lies in patches 7 to 10 which hold 'r context.\\n'",
    ]


def test_read_example(capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = python_blocks("docs/pages.md")
    exec(block, {})
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "14"
    assert "as pages  49 tokens: 196 -> 49 visual, 0 for 0 exact strings" in "\n".join(shown)
    assert "as text   126 tokens (2.57 times as many)" in shown


@pytest.mark.parametrize(
    "module",
    [
        "foveate.core.budget",
        "foveate.core.settings",
        "foveate.carve.methods.tokencarve",
        "foveate.text_image.render",
        "foveate.text_image.strip_style",
    ],
)
def test_docstring_examples(module: str) -> None:
    source = importlib.import_module(module)
    found = doctest.testmod(source, extraglobs=vars(source))
    assert found.attempted > 0
    assert found.failed == 0
