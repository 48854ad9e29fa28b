"""docs/methods.md: a row for every method, and figures that are those of docs/results."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import foveate
from benchmarks.methods_page import (
    BEGIN,
    END,
    FIDELITY,
    RESULTS,
    Comparison,
    fidelity_table,
    section,
    short_table,
    with_section,
)

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "methods.md").read_text()
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("name", [name for name in foveate.METHODS if name != "noop"])
def test_every_method_has_its_row(name: str) -> None:
    rows = [line for line in PAGE.partition(BEGIN)[0].splitlines() if f"`{name}`" in line]
    assert rows
    paper = foveate.METHODS[name].paper.removeprefix("arXiv:")
    assert paper in rows[0]


def test_figures_are_those_of_the_results() -> None:
    found = {n: Comparison.load(ROOT / "docs" / "results" / f) for n, f in RESULTS.items()}
    assert with_section(PAGE, section(found)) == PAGE, "run python -m benchmarks.methods_page"
    short = short_table(found["reading"])
    assert with_section(README, short) == README, "run python -m benchmarks.methods_page"


def test_how_each_stands_to_its_authors_code() -> None:
    assert with_section(PAGE, fidelity_table(), FIDELITY) == PAGE, (
        "run python -m benchmarks.methods_page"
    )


@pytest.mark.parametrize("name", [name for name, cls in foveate.METHODS.items() if cls.paper])
def test_every_published_method_says_so(name: str) -> None:
    fidelity = foveate.METHODS[name].fidelity
    assert fidelity
    assert not fidelity.endswith(".")


@pytest.mark.parametrize("folder", RESULTS.values())
def test_the_evidence_is_whole(folder: str) -> None:
    """At least 12 methods at five budgets, 2,000 questions, with the controls."""
    comparison = Comparison.load(ROOT / "docs" / "results" / folder)
    assert comparison.manifest["num_questions"] >= 2000
    assert {"random", "uniform", "resize"} <= set(comparison.methods)
    assert len(set(comparison.methods) - {"random", "uniform"}) >= 12
    assert comparison.budgets == ["50%", "25%", "22.2%", "12.5%", "6%"]
    assert len(comparison.images) == comparison.manifest["num_questions"]


def test_markers() -> None:
    for page in (PAGE, README):
        assert page.count(BEGIN) == page.count(END) == 1
        assert not re.search(r"\bTODO\b", page)
