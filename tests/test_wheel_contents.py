"""What a wheel holds: foveate whole, and nothing that stands beside it."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.test_imports import FILES, imported, name_of

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = ("training", "tests", "benchmarks")


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names of the files in a freshly built wheel."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    # Links, because a build writes beside the sources.
    for name in ("foveate", *OUTSIDE, "pyproject.toml", "README.md", "LICENSE"):
        (source / name).symlink_to(ROOT / name)
    code = f"from setuptools import build_meta; build_meta.build_wheel({str(out)!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    (wheel,) = out.glob("*.whl")
    return set(zipfile.ZipFile(wheel).namelist())


def test_a_wheel_holds_foveate_and_nothing_beside_it(names: set[str]) -> None:
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"foveate"}


def test_a_wheel_holds_every_file_of_foveate(names: set[str]) -> None:
    ours = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "foveate").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert ours - names == set()


def test_foveate_imports_nothing_that_no_wheel_holds() -> None:
    tops = {name_of(path): {name.split(".")[0] for name in imported(path)} for path in FILES}
    assert {name: used for name, used in tops.items() if used & set(OUTSIDE)} == {}
