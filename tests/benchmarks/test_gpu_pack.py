"""What travels to a GPU machine: packed small, tried before it leaves, run by one line."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.gpu import pack
from foveate.errors import InputError

RUN = Path(pack.__file__).with_name(pack.SCRIPT)


def wheel(folder: Path, name: str, files: dict[str, str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as made:
        for entry, content in files.items():
            made.writestr(entry, content)
    return path


@pytest.fixture
def one_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    """What pip would fetch: a package with data that no import needs."""

    def fetched(names: Sequence[str], folder: Path) -> list[Path]:
        files = {
            "packed_alone/__init__.py": "from packed_alone.data import NUMBER\n",
            "packed_alone/data.py": "NUMBER = 7\n",
            "packed_alone/tests/test_it.py": "",
            "packed_alone/data/test/0.txt": "kept",
            "packed_alone-1.0.dist-info/RECORD": "",
            "packed_alone-1.0.dist-info/METADATA": "Name: packed_alone",
        }
        return [wheel(folder, "packed_alone", files)]

    monkeypatch.setattr(pack, "download", fetched)
    monkeypatch.setattr(pack, "TRIED", ("packed_alone",))
    monkeypatch.setattr(pack, "TRIED_THERE", ())


@pytest.mark.usefixtures("one_wheel")
def test_the_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pack.main(["--out", str(tmp_path / "gpu")]) == 0
    assert sorted(path.name for path in (tmp_path / "gpu").iterdir()) == [pack.ARCHIVE, pack.SCRIPT]
    with tarfile.open(tmp_path / "gpu" / pack.ARCHIVE) as tar:
        assert tar.getnames() == [
            "packed_alone/__init__.py",
            "packed_alone/data/test/0.txt",
            "packed_alone/data.py",
            "packed_alone-1.0.dist-info/METADATA",
        ]
    assert "transformers==" in capsys.readouterr().out
    first = (tmp_path / "gpu" / pack.ARCHIVE).read_bytes()
    assert pack.main(["--out", str(tmp_path / "again")]) == 0
    assert (tmp_path / "again" / pack.ARCHIVE).read_bytes() == first


@pytest.mark.usefixtures("one_wheel")
@pytest.mark.parametrize(
    ("changed", "value", "said"),
    [
        ("LIMIT", 100, "more than the 0 that travel with a clone; leave a package out."),
        ("TRIED", ("packed_elsewhere",), "No module named 'packed_elsewhere'"),
        ("TRIED", ("json",), "what was packed cannot be imported"),
    ],
)
def test_refused(
    changed: str,
    value: object,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(pack, changed, value)
    assert pack.main(["--out", str(tmp_path / "gpu")]) == 2
    assert said in capsys.readouterr().err
    assert list((tmp_path / "gpu").iterdir()) == []


def test_everything_is_pinned() -> None:
    names = [pinned.split("==")[0] for pinned in pack.wanted()]
    assert names == [*pack.PINNED, "dill", "multiprocess"]


def test_compiled_wheels_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(*arguments: object, **settings: object) -> subprocess.CompletedProcess[str]:
        (tmp_path / "numpy-2.4.6-cp312-cp312-manylinux_2_27_x86_64.whl").touch()
        return subprocess.CompletedProcess([], 0, "", "")

    monkeypatch.setattr(subprocess, "run", fetch)
    with pytest.raises(InputError, match="is not pure Python; pin a version that is"):
        pack.download(["numpy"], tmp_path)


def test_run_sh_runs_both_with_what_was_packed(tmp_path: Path) -> None:
    """In a folder that looks like a clone, with a Python that says what it was asked."""
    for folder in ("foveate", "tests/gpu", "kit"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "kit" / pack.SCRIPT).write_bytes(RUN.read_bytes())
    tree = tmp_path / "tree"
    (tree / "packed_alone").mkdir(parents=True)
    (tree / "packed_alone" / "__init__.py").write_text("")
    pack.pack(tree, tmp_path / "kit" / pack.ARCHIVE)
    fake = tmp_path / "python"
    fake.write_text(
        f'#!/bin/sh\nif [ "$2" = tarfile ]; then exec {sys.executable} "$@"; fi\n'
        'ls "${PYTHONPATH#*:}"; echo "$@"\n[ "$2" != pytest ]\n'
    )
    fake.chmod(0o755)
    environment = {**os.environ, "PYTHON": str(fake), "OUT": str(tmp_path / "results")}
    script = ["bash", "kit/run.sh"]
    done = subprocess.run(
        script, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    results = tmp_path / "results"
    assert done.stdout.splitlines() == [
        "packed_alone",
        f"-m pytest -p no:cacheprovider tests/gpu --device cuda --seconds 200 --out {results}",
        "packed_alone",
        f"-m benchmarks.gpu --device cuda --budget 240 --out {results}",
        f"run.sh: tests ended with 1, the benchmark with 0; results are in {results}",
    ]
    assert done.returncode == 1
    elsewhere = subprocess.run(
        ["bash", str(RUN)], cwd=tmp_path / "kit", capture_output=True, text=True, check=False
    )
    assert elsewhere.returncode == 2
    assert "is no clone of foveate" in elsewhere.stderr
