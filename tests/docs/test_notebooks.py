"""Both notebooks run, and what they print is what is saved in them."""

from __future__ import annotations

import ast
import base64
import io
import json
import math
import re
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests.docs.test_examples import ROOT
from tests.wheel import needs_smollm2

FOLDER = ROOT / "notebooks"
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
MOST_BYTES = 400_000
TITLES = {
    "what-did-the-model-keep": "What did the model keep?",
    "a-thousand-tokens-in-seven-pictures": "A thousand tokens in seven pictures",
}


def cells_of(name: str) -> list[dict[str, Any]]:
    path = FOLDER / f"{name}.ipynb"
    return list(json.loads(path.read_text(encoding="utf-8"))["cells"])


def run(source: str, names: dict[str, Any]) -> tuple[str, Any]:
    """What a cell prints, and the value of its last line, as Jupyter shows them."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    value = None
    with redirect_stdout(io.StringIO()) as printed:
        exec(compile(tree, "<cell>", "exec"), names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), "<cell>", "eval"), names)
    return printed.getvalue(), value


def same(said: str, saved: str) -> bool:
    """Words are equal; numbers may differ by a last digit, as kernels of other machines do."""
    if NUMBER.sub("#", said).split() != NUMBER.sub("#", saved).split():
        return False
    pairs = zip(NUMBER.findall(said), NUMBER.findall(saved), strict=True)
    return all(math.isclose(float(a), float(b), abs_tol=0.11, rel_tol=0.02) for a, b in pairs)


def check(name: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """Execute a notebook; returns how many of its cells show a picture."""
    monkeypatch.chdir(FOLDER)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)  # a setting of the process
    names: dict[str, Any] = {"__name__": "__main__"}
    pictures = 0
    for cell in cells_of(name):
        if cell["cell_type"] != "code":
            continue
        printed, value = run("".join(cell["source"]), names)
        saved = "".join("".join(out.get("text", "")) for out in cell["outputs"])
        assert same(printed, saved), f"printed:\n{printed}\nsaved:\n{saved}"
        shown = [out["data"] for out in cell["outputs"] if "data" in out]
        assert (value is not None) == bool(shown)
        for data in shown:
            assert isinstance(value, Image.Image)
            png = base64.b64decode("".join(data["image/png"]))
            with Image.open(io.BytesIO(png)) as kept:
                assert kept.size == value.size
            pictures += 1
    return pictures


def test_what_did_the_model_keep(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check("what-did-the-model-keep", monkeypatch) == 2


@needs_smollm2
def test_a_thousand_tokens_in_seven_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check("a-thousand-tokens-in-seven-pictures", monkeypatch) == 1
    saved = json.dumps(cells_of("a-thousand-tokens-in-seven-pictures"))
    assert "1000 tokens in 7 pictures" in saved


@pytest.mark.parametrize("name", TITLES)
def test_what_is_saved(name: str) -> None:
    """Small, titled, without errors, traces of a machine, or links that lead nowhere."""
    path = FOLDER / f"{name}.ipynb"
    assert path.stat().st_size < MOST_BYTES
    cells = cells_of(name)
    assert "".join(cells[0]["source"]).startswith(f"# {TITLES[name]}\n")
    text = "".join("".join(cell["source"]) for cell in cells)
    for link in re.findall(r"\]\(([^)#]+)", text):
        assert "://" in link or (FOLDER / link).exists(), link
    outputs = [out for cell in cells for out in cell.get("outputs", ())]
    assert outputs
    assert {out["output_type"] for out in outputs} <= {"stream", "display_data"}
    assert str(Path.home()) not in path.read_text(encoding="utf-8")


def test_every_notebook_is_tested() -> None:
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(TITLES)


def test_numbers_may_differ_by_a_last_digit() -> None:
    assert same("kept 98, 2.6 nats", "kept 98, 2.7 nats")
    assert not same("kept 98, 2.6 nats", "kept 49, 2.6 nats")
    assert not same("same - same", "same same -")
