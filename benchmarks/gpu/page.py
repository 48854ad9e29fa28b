"""docs/results/gpu.json and gpu.md out of a GPU's gpu.json: `python -m benchmarks.gpu.page FILE`.

Only a run at real shapes on a GPU becomes a page; what a CPU or tiny shapes gave is refused.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.results import write_results
from benchmarks.timed import ratio_cell
from foveate.errors import InputError

Row = Mapping[str, Any]
# Heading of a column, and its cell of a row.
Column = tuple[str, Callable[[Row], str]]


def read_run(path: Path) -> dict[str, Any]:
    """What a run wrote.

    Raises:
        InputError: it was no run at real shapes on a GPU, or it has no rows.
    """
    run: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    about = run["about"]
    if about["device"] != "cuda" or about["tiny"]:
        shapes = "tiny" if about["tiny"] else "real"
        raise InputError(
            f"{path.name} is of a run on {about['device']} at {shapes} shapes, which says nothing "
            "about a GPU; give one that make bench-gpu wrote on a GPU."
        )
    if not run["rows"]:
        raise InputError(f"{path.name} has no rows; run make bench-gpu again with more --budget.")
    return run


def page(run: Mapping[str, Any]) -> list[str]:
    """The page's lines: a table for each kind of row that the run has."""
    rows = run["rows"]
    lines: list[str] = []
    for heading, what, columns in TABLES:
        chosen = [row for row in rows if row["what"] == what]
        if chosen:
            lines += [f"## {heading}", "", *_table(columns, chosen), ""]
    lines += _cut("Not measured for lack of time", run["skipped"])
    lines += _cut("Failed", [f"{error['what']}: {error['error']}" for error in run["errors"]])
    return lines[:-1]


def _table(columns: Sequence[Column], rows: Iterable[Row]) -> list[str]:
    head = "| " + " | ".join(name for name, _ in columns) + " |"
    body = ["| " + " | ".join(cell(row) for _, cell in columns) + " |" for row in rows]
    return [head, "|---" * len(columns) + "|", *body]


def _cut(heading: str, entries: Sequence[str]) -> list[str]:
    return [f"## {heading}", "", *(f"- {entry}" for entry in entries), ""] if entries else []


def _field(name: str, form: str = "") -> Callable[[Row], str]:
    return lambda row: f"{row[name]:{form}}" if name in row else ""


def _spread(name: str) -> Callable[[Row], str]:
    return lambda row: ratio_cell(row[name], ".2f") if name in row else ""


def _ratio(name: str) -> Callable[[Row], str]:
    return lambda row: ratio_cell(row[name]) if name in row else ""


def _percent(name: str) -> Callable[[Row], str]:
    return lambda row: f"{100 * row[name]:.1f} %" if name in row else ""


def _model(row: Row) -> str:
    visual = f", {row['visual']:,} visual tokens" if "visual" in row else ""
    return f"{row['model']}{visual}, batch {row['batch']}"


def _asked(part: str) -> Callable[[Row], str]:
    def cell(row: Row) -> str:
        asked = row[part]
        return f"{asked['kernels']:.0f} ({asked['kernels_ms']:.1f} ms, {asked['waits']:.0f} waits)"

    return cell


WHERE: tuple[Column, ...] = (
    ("model", _model),
    ("attention", _field("attention")),
    ("keep", _field("keep")),
    ("method", _field("method")),
)
ALONE: tuple[Column, ...] = (
    ("images", _field("images")),
    ("tokens", _field("tokens", ",")),
    ("width", _field("width")),
)
TABLES: tuple[tuple[str, str, tuple[Column, ...]], ...] = (
    ("The device", "ceilings", (
        ("bf16 product, TFLOP/s", _field("product_tflops", ".0f")),
        ("copy, TB/s", _field("copy_tb_s", ".2f")),
    )),
    ("Prefill", "prefill", (
        *WHERE,
        ("ms", _spread("prefill_ms")),
        ("/ plain", _ratio("prefill_ratio")),
        ("selection, ms", _spread("select_ms")),
        ("selection / plain", _percent("select_share")),
        ("tower", _percent("tower_share")),
        ("peak MiB", _field("peak_mib", ".0f")),
        ("KV / plain", _field("kv_ratio", ".3f")),
    )),
    ("Generation", "generation", (
        *WHERE,
        ("tokens", _field("new_tokens")),
        ("ms", _spread("generate_ms")),
        ("ms a token", _field("token_ms", ".2f")),
        ("/ plain", _ratio("generate_ratio")),
    )),
    ("What is asked of the device", "launches", (
        *(column for column in WHERE if column[0] != "attention"),
        ("kernels of a prefill", _asked("prefill")),
        ("of a token", _asked("token")),
    )),
    ("Selection alone", "selection", (
        *ALONE,
        ("keep", _field("keep")),
        ("method", _field("method")),
        ("ms", _spread("device_ms")),
        ("peak MiB", _field("peak_mib", ".0f")),
    )),
    ("The information score", "information", (
        *ALONE,
        ("score", _field("score")),
        ("ms", _spread("device_ms")),
        ("peak MiB", _field("peak_mib", ".0f")),
    )),
)  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.page", description=__doc__)
    parser.add_argument("file", type=Path, help="gpu.json of a run")
    path = parser.parse_args(arguments).file
    try:
        run = read_run(path)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    about = run["about"]
    write_results(
        "gpu",
        "What foveate costs and saves on a GPU",
        f"One {about['hardware']['gpu']}, bfloat16, random weights of the models' shapes, "
        f"{run['seconds']:.0f} seconds in all. Milliseconds are medians of interleaved rounds with "
        "the smallest and the largest; ratios, to the plain model of the same rounds, have 95 % "
        "intervals. Selection alone and what is asked of the device are by CUDA's own events.",
        page(run),
        {**run, "manifest": about},
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
