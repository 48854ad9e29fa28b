"""Families whose images are views, or grids without a readable tower: as in transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

import foveate
from foveate.carve.method import Method
from foveate.vllm.config_hook import CANDIDATES, FAMILIES
from tests.vllm.engine.in_process import engine
from tests.vllm.engine.server import Answer
from tests.vllm.engine.test_families import CASES, A, B, assert_same
from tests.vllm.engine.tiny_models import save_tiny


@pytest.fixture(autouse=True)
def _candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Served here though refused elsewhere; the engine is in this process."""
    for architecture, family in CANDIDATES.items():
        monkeypatch.setitem(FAMILIES, architecture, family)  # type: ignore[misc]


SPECS = {"divprune": foveate.DivPrune, "tokencarve": foveate.TokenCarve}


def method_of(name: str, ratio: float, positions: str) -> Method:
    where = {"where": "encoder"} if name == "tokencarve" else {}
    made: Method = SPECS[name](keep_ratio=ratio, prune_layer=0, positions=positions, **where)
    return made


def check(
    folder: Path, name: str, cases: Sequence[tuple[list[Image.Image], str]], positions: str
) -> None:
    """Answers at the server's budget and at a request's are those of transformers, twice."""
    from tests.vllm.engine.reference import Reference

    def expected(ratio: float) -> list[Answer]:
        reference = Reference(folder, method_of(name, ratio, positions))
        return [reference.ask(*case) for case in cases]

    own, less = expected(0.5), expected(0.25)
    assert [a.logprobs for a in own] != [a.logprobs for a in less]
    with engine(folder, {"method": name, "keep_ratio": 0.5}) as running:
        for _ in range(2):
            for case, a, b in zip(cases, own, less, strict=True):
                assert_same(running.ask(*case), a)
                assert_same(running.ask(*case, budget={"keep_ratio": 0.25}), b)


@pytest.mark.parametrize("name", ["divprune", "tokencarve"])
def test_internvl(name: str, tmp_path: Path) -> None:
    """The tokens of all views are carved as one."""
    check(save_tiny("internvl", tmp_path), name, CASES, "renumbered")


def test_glm4v(tmp_path: Path) -> None:
    check(save_tiny("glm4v", tmp_path), "divprune", CASES, "original")


def test_qwen3_5(tmp_path: Path) -> None:
    check(save_tiny("qwen3_5", tmp_path), "divprune", CASES, "original")


SMALL = [([A.resize((56, 56))], "w1 w2"), ([B.resize((70, 70))], "w3"), ([], "w7 w8")]


@pytest.mark.parametrize("family", ["idefics3", "smolvlm"])
@pytest.mark.parametrize("name", ["divprune", "tokencarve"])
def test_idefics3(family: str, name: str, tmp_path: Path) -> None:
    if family == "smolvlm":
        pytest.importorskip("num2words")
    check(save_tiny(family, tmp_path), name, SMALL, "renumbered")


@pytest.mark.parametrize("name", ["divprune", "tokencarve"])
def test_gemma3(name: str, tmp_path: Path) -> None:
    check(save_tiny("gemma3", tmp_path), name, CASES, "renumbered")
