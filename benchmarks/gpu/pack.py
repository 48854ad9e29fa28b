"""What a GPU machine without a package registry needs beside a clone, in one folder.

Such machines often have torch, Triton, pytest and an older transformers, and nothing that could
fetch what is missing. `python -m benchmarks.gpu.pack --out out/gpu` (make pack-gpu) downloads the
pinned pure-Python wheels, unzips them into one tree, packs that, tries it, and lays run.sh beside
it. There it takes the clone, the folder, and one line in the clone: `bash out/gpu/run.sh`.
"""

from __future__ import annotations

import argparse
import lzma
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from foveate.errors import InputError

MIB = 2**20
LIMIT = 8 * MIB
CONSTRAINTS = Path(__file__).resolve().parents[2] / "constraints.txt"
PINNED = ("transformers", "gguf", "easy-vqa", "datasets")  # there
# What those need and such machines lack. multiprocess has a wheel for each Python.
MORE = ("dill==0.4.1", "multiprocess==0.70.19")
# Imported to try the archive; multiprocess and what imports it need the Python it was packed for.
TRIED = ("transformers", "gguf", "easy_vqa", "dill")
TRIED_THERE = ("multiprocess", "datasets")
PYTHON = "3.12"
ARCHIVE, SCRIPT = "packages.tar.xz", "run.sh"
NOT_NEEDED = re.compile(r"(^|/)(RECORD|\.DS_Store)$|\.(pyi|exe|a)$|(^|/)tests/")


def wanted() -> list[str]:
    """name==version of each package, as CI runs it where it does."""
    pins = dict(re.findall(r"^([\w-]+)==(\S+)$", CONSTRAINTS.read_text(), re.MULTILINE))
    return [*(f"{name}=={pins[name]}" for name in PINNED), *MORE]


def download(names: Sequence[str], folder: Path) -> list[Path]:
    """Wheels of pure Python, without what they depend on.

    Raises:
        InputError: pip cannot get one.
    """
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "download"]
    kind = ["--no-deps", "--only-binary=:all:", "--python-version", PYTHON, "--dest", str(folder)]
    done = subprocess.run([*pip, *kind, *names], capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(f"pip could not download the wheels: {done.stderr.strip()[-600:]}")
    wheels = sorted(folder.glob("*.whl"))
    compiled = [wheel.name for wheel in wheels if not wheel.stem.endswith("-none-any")]
    if compiled:
        raise InputError(f"{', '.join(compiled)} is not pure Python; pin a version that is.")
    return wheels


def unzip(wheels: Sequence[Path], tree: Path) -> None:
    """Into one tree that stands on PYTHONPATH, without what importing does not need."""
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as opened:
            needed = [name for name in opened.namelist() if not NOT_NEEDED.search(name)]
            opened.extractall(tree, needed)


def pack(tree: Path, archive: Path) -> None:
    """The tree as a .tar.xz, the same bytes for the same files."""
    with (
        lzma.open(archive, "wb", preset=9 | lzma.PRESET_EXTREME) as file,
        tarfile.open(fileobj=file, mode="w") as tar,
    ):
        for path in sorted(tree.rglob("*")):
            if path.is_file():
                about = tarfile.TarInfo(str(path.relative_to(tree)))
                about.size = path.stat().st_size
                with path.open("rb") as opened:
                    tar.addfile(about, opened)


def check_size(folder: Path) -> int:
    """Bytes of a folder's files.

    Raises:
        InputError: more than the limit.
    """
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if size > LIMIT:
        raise InputError(
            f"{folder.name} has {size / MIB:.2f} MiB, more than the {LIMIT / MIB:.0f} that travel "
            "with a clone; leave a package out."
        )
    return size


def try_imports(archive: Path) -> None:
    """Import what was packed out of an unpacked copy, in a Python of its own.

    Raises:
        InputError: a package cannot be imported, or another copy of it was.
    """
    names = list(TRIED)
    if sys.version_info[:2] == tuple(map(int, PYTHON.split("."))):
        names += TRIED_THERE
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "tarfile", "-e", archive, folder], check=True)
        code = "".join(
            f"import {name}; assert {name}.__file__.startswith({folder!r}), {name}.__file__\n"
            for name in names
        )
        environment = {**os.environ, "PYTHONPATH": folder, "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise InputError(f"what was packed cannot be imported: {done.stderr.strip()[-600:]}")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.pack", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the folder")
    out = parser.parse_args(arguments).out
    out.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory() as work:
            wheels, tree, fresh = (Path(work) / name for name in ("wheels", "tree", "fresh"))
            fresh.mkdir()
            unzip(download(wanted(), wheels), tree)
            pack(tree, fresh / ARCHIVE)
            shutil.copy(Path(__file__).with_name(SCRIPT), fresh)
            size = check_size(fresh)
            try_imports(fresh / ARCHIVE)
            for path in fresh.iterdir():
                shutil.copy(path, out)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{out}: {size / MIB:.2f} MiB of {', '.join(wanted())}.")
    print(f"In a clone there: bash {out / SCRIPT}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
