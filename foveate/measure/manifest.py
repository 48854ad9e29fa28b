"""What a result was measured on: versions, commit, seed, class of hardware. No host, no paths."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from foveate.version import __version__

PACKAGES = ("torch", "transformers", "numpy", "pillow", "safetensors")


def manifest(*, seed: int, **facts: Any) -> dict[str, Any]:
    """All that is needed to judge or repeat a measurement, JSON-ready; `facts` are added."""
    return {
        "foveate": __version__,
        "commit": commit_of(Path(__file__).resolve().parents[2]),
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "seed": seed,
        "hardware": {
            "cpu": _cpu(),
            "machine": platform.machine(),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
        **facts,
    }


def public_name(name: str) -> str:
    """A model or data name without the folders it lies in on this machine; hub ids stay whole."""
    return Path(name).resolve().name if Path(name).exists() else name


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def commit_of(root: Path) -> str | None:
    """The commit that a folder is at, "+changes" if files differ; None outside a clone.

    Results may differ: several measurements of one commit follow each other.
    """
    if not (root / ".git").exists():
        return None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        changed = _git(root, "status", "--porcelain", "-uno", "--", ".", ":(exclude)docs/results")
        return f"{commit}+changes" if changed else commit
    except (OSError, subprocess.SubprocessError):
        return None


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(root), *arguments],
        capture_output=True,
        text=True,
        timeout=10,
        check=True,
    )
    return done.stdout.strip()


def _cpu() -> str:
    """Model name of the processor."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
