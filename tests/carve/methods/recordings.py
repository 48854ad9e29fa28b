"""Recordings of published methods: where they lie, and what one holds.

A few ship with the tests (`tests/data/methods`). More lie beside the project, in
`../shared/golden/methods`, and are tried where they are there.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, safe_open
from torch import Tensor

TESTS = Path(__file__).resolve().parents[2]
FOLDERS = (TESTS / "data" / "methods", TESTS.parents[1] / "shared" / "golden" / "methods")
# What these methods read of the model was recorded as an output of their authors' code.
GIVEN = {"out.attention", "out.score_last_sample", "out.relevance"}


def recordings(methods: Iterable[str]) -> list[Path]:
    """Files of these methods; of two with one name the one that ships."""
    wanted = tuple(f"{name}_" for name in methods)
    found: dict[str, Path] = {}
    for folder in FOLDERS:
        for path in sorted(folder.glob("*.safetensors")):
            if path.name.startswith(wanted):
                found.setdefault(path.name, path)
    return [found[name] for name in sorted(found)]


@dataclass(frozen=True)
class Recording:
    """One case: tensors by name, and the settings it ran with."""

    method: str
    case: str
    tensors: dict[str, Tensor]
    settings: dict[str, Any]

    @classmethod
    def load(cls, path: Path) -> Recording:
        with safe_open(path, "pt") as file:
            meta = file.metadata()
        return cls(meta["method"], meta["case"], load_file(path), json.loads(meta["settings"]))

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def of_other_inputs(self) -> Recording:
        """The same answers to other questions: inputs of the same shapes, drawn anew."""
        generator = torch.Generator().manual_seed(1)
        drawn = {
            name: torch.rand(value.shape, generator=generator).to(value.dtype)
            if name.startswith("in.") or name in GIVEN
            else value
            for name, value in self.tensors.items()
        }
        return replace(self, tensors=drawn)


def compare(what: str, ours: Tensor, theirs: Tensor, relative: float = 1e-5) -> None:
    """Indices must be the same; values may differ by `relative` of the largest.

    Raises:
        AssertionError: they differ; says by how much.
    """
    theirs = theirs.reshape(ours.shape) if theirs.numel() == ours.numel() else theirs
    assert ours.shape == theirs.shape, f"{what}: {tuple(ours.shape)}, theirs {tuple(theirs.shape)}"
    if not theirs.is_floating_point():
        num_other = int((ours != theirs).sum())
        assert num_other == 0, f"{what}: {num_other} of {theirs.numel()} differ"
        return
    difference = (ours.double() - theirs.double()).abs()
    limit = relative * float(theirs.abs().max())
    assert float(difference.max()) <= limit, (
        f"{what}: max {float(difference.max()):.3g}, mean {float(difference.mean()):.3g}, "
        f"limit {limit:.3g}"
    )
