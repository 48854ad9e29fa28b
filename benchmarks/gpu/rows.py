"""The file of a run on a GPU, rewritten after every row: a kill loses what was under way."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from foveate.files import replacing

FILE = "gpu.json"


class Rows:
    """Rows of one run, its errors, what it had no time for, and the seconds it may take.

    Args:
        folder: where gpu.json is written.
        about: what ran where, JSON-ready.
        budget: seconds, counted from now.
    """

    def __init__(self, folder: Path, about: dict[str, Any], *, budget: float) -> None:
        self._begun = time.monotonic()
        self._budget = budget
        self._path = folder / FILE
        self._console = Console(stderr=True, highlight=False)
        self._content: dict[str, Any] = {"about": about, "rows": [], "errors": [], "skipped": []}
        folder.mkdir(parents=True, exist_ok=True)
        self._write()

    @property
    def left(self) -> float:
        """Seconds of the budget."""
        return self._budget - (time.monotonic() - self._begun)

    def add(self, row: dict[str, Any]) -> None:
        self._content["rows"].append(row)
        shown = (f"{key} {_short(value)}" for key, value in row.items())
        self._console.print(", ".join(shown), soft_wrap=True, markup=False)
        self._write()

    def has_time(self, what: str, *, seconds: float) -> bool:
        """Whether that much of the budget is left; where not, `what` is noted as skipped."""
        if self.left >= seconds:
            return True
        self._content["skipped"].append(what)
        self._write()
        return False

    @contextmanager
    def noting(self, what: str) -> Iterator[None]:
        """An error in here is noted and goes no further: one row must not cost the others."""
        try:
            yield
        except Exception as error:
            said = f"{type(error).__name__}: {error}"[:600]
            self._console.print(f"{what}: {said}", style="red", soft_wrap=True, markup=False)
            where = traceback.format_exc()[-1500:]
            self._content["errors"].append({"what": what, "error": said, "where": where})
            self._write()

    @property
    def has_errors(self) -> bool:
        return bool(self._content["errors"])

    @property
    def summary(self) -> str:
        """ "124 rows, 0 errors, 3 skipped for time, 210 s"."""
        counts = {name: len(self._content[name]) for name in ("rows", "errors", "skipped")}
        return (
            f"{counts['rows']} rows, {counts['errors']} errors, {counts['skipped']} skipped for "
            f"time, {self._content['seconds']:.0f} s: {self._path}"
        )

    def _write(self) -> None:
        self._content["seconds"] = time.monotonic() - self._begun
        with replacing(self._path) as file:
            file.write(json.dumps(self._content, indent=1).encode() + b"\n")


def _short(value: Any) -> str:
    if isinstance(value, dict) and "value" in value:
        return f"{value['value']:.4g} ({value['low']:.4g}-{value['high']:.4g})"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
