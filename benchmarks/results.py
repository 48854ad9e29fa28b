"""Where benchmark results go: docs/results, as JSON and as a Markdown table with its manifest."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markdown import Markdown

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "results"


def write_results(
    name: str,
    title: str,
    what: str,
    table: Sequence[str],
    data: dict[str, Any],
    *,
    module: str | None = None,
) -> None:
    """Write `name`.json and `name`.md, and print the table.

    Args:
        module: of benchmarks, that made them; None for that of the same name.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / f"{name}.json").write_text(json.dumps(data, indent=2) + "\n")
    facts = data["manifest"]
    made = (
        f"Made by `python -m benchmarks.{module or name.replace('-', '_')}`: "
        f"foveate {facts['foveate']} at commit {facts['commit']}, torch {facts['torch']}, "
        f"transformers {facts['transformers']}, "
        f"{facts['hardware']['cpu']}, {facts['hardware']['threads']} threads, "
        f"seed {facts['seed']}"
        + (f", {facts['rounds']} interleaved rounds." if "rounds" in facts else ".")
    )
    text = "\n".join([f"# {title}", "", what, "", *table, "", made, ""])
    (FOLDER / f"{name}.md").write_text(text)
    Console().print(Markdown(text))
