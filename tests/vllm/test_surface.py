"""The comparison of what the plugin extends in two versions of vLLM: it sees every difference."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from benchmarks import vllm_surface
from benchmarks.vllm_surface import SURFACE, compare, find

PLUGIN = Path(__file__).parents[2] / "foveate" / "vllm"
OLD = """
class Base:
    a: int
    def kept(self, x: int) -> int:
        return x
    def changed(self, x: int) -> int:
        return x
    def renamed(self, x): ...
def free(a, b=1): ...
"""
NEW = """
class Base:
    a: int
    def kept(self, x: int) -> int:
        return x
    def changed(self, x: int) -> int:
        return x + 1
    def renamed(self, y): ...
    def added(self): ...
def free(a, b=2): ...
"""


def test_it_sees_every_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("Base.kept", "Base.changed", "Base.renamed", "Base.added", "free")
    monkeypatch.setattr(vllm_surface, "SURFACE", {"m.py": names})
    found = {row.name: row for row in compare({"m.py": OLD}, {"m.py": NEW})}
    assert {name: row.verdict for name, row in found.items()} == {
        "Base.kept": "same",
        "Base.changed": "body differs",
        "Base.renamed": "signature differs",
        "Base.added": "new",
        "free": "signature differs",
    }
    assert (found["free"].before, found["free"].after) == ("a, b=1", "a, b=2")
    back = {row.name: row.verdict for row in compare({"m.py": NEW}, {"m.py": OLD})}
    assert back["Base.added"] == "gone"
    assert all(row.verdict == "gone" for row in compare({"m.py": NEW}, {}))


def test_a_name_that_nobody_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_surface, "SURFACE", {"m.py": ("Base.nothing",)})
    with pytest.raises(ValueError, match=r"Base\.nothing of m\.py is in neither version"):
        compare({"m.py": OLD}, {"m.py": NEW})


def test_every_model_class_that_is_extended_is_compared() -> None:
    compared = {name.split(".")[0] for names in SURFACE.values() for name in names}
    extended = set()
    for path in PLUGIN.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("vllm.model"):
                extended |= {alias.name for alias in node.names}
    assert len(extended) > 8
    assert extended <= compared


def test_names_are_found_where_they_are() -> None:
    assert find(OLD, "Base.kept") is not None
    assert find(OLD, "kept.Base") is None
