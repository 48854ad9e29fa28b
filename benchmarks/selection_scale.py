"""What selection costs from 576 to 16,384 visual tokens: time, memory, exponents; before and after.

Every method decides on one made-up image of N tokens of width 3,584 and keeps 25 % of them, in a
process of its own on one thread (benchmarks/selection_cell.py). Beside it stands what the
prefill of the decoder that this width belongs to, Qwen2.5-VL-7B's, would take on the same core: its
FLOPs over the core's rate in a large product. `python -m benchmarks.selection_scale` writes
docs/results/selection-scale.json and selection-scale.md.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress

import foveate
from benchmarks.results import write_results
from benchmarks.selection_cell import HEADS, KEEP_RATIO, LAYERS, NUM_TEXT, WIDTH
from foveate.core.decoder_shape import DecoderShape
from foveate.measure.flops import prefill_cost
from foveate.measure.manifest import manifest

ROOT = Path(__file__).resolve().parents[1]
CELL = ROOT / "benchmarks" / "selection_cell.py"
SIZES = (576, 1024, 2048, 4096, 8192, 16384)
FITTED_FROM = 2048  # below, what every call costs anyway bends the line
LEAST_SECONDS = 0.01  # at the largest size; of less no exponent is fitted
SHAPE = DecoderShape(
    hidden_size=WIDTH,
    intermediate_size=18944,
    num_layers=LAYERS,
    num_heads=HEADS,
    num_kv_heads=4,
    head_dim=128,
)
# Methods that compare all pairs of tokens, or of a fixed share of them: with products, not loops.
COMPARE_PAIRS = frozenset(
    {
        "apet",
        "cdpruner",
        "divprune",
        "foveacarve",
        "holov",
        "mmtok",
        "pooling",
        "prune-and-merge",
        "scope",
        "sparsevlm",
        "tokencarve",
        "tome",
        "two-stage",
        "visionzip",
        "vispruner",
        "vscan",
    }
)
# Made of other methods, decided before the tower, or by frames of which an image has one.
NOT_MEASURED = frozenset({"noop", "stack", "text-share", "pixelprune", "evs", "dtd", "vidcom2"})
MOST_BYTES, MOST_SHARE, MOST_EXPONENT = 2e9, 0.03, {True: 2.1, False: 1.2}
# The last commit before selection was rewritten, and sizes at which its forms still end.
BEFORE = "d21db69"
REDEFINED = (
    "DART, MMTok and FoveaCarve were held to their authors' code, or rewritten, since, and keep "
    "other tokens for that; the faster form itself kept the same ones"
)
SIZES_BEFORE = {
    "tokencarve": 4096,
    "mmtok": 2048,
    "foveacarve": 4096,
    "cdpruner": 4096,
    "divprune": 4096,
    "dart": 4096,
}


def measure(
    method: str, sizes: Sequence[int], package: Path, limit: int
) -> dict[int, dict[str, Any]]:
    """What benchmarks/selection_cell.py says of each size, with foveate from `package`."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(package)}
    command = [sys.executable, str(CELL), method, *map(str, sizes), "--limit", str(limit)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode not in (0, -signal.SIGXCPU):
        raise RuntimeError(f"{' '.join(command[1:])} failed:\n{done.stderr}")
    found = [json.loads(line) for line in done.stdout.splitlines()]
    # Sizes come in ascending order, so what it was too late to say is as late.
    found += [{"failed": f"not within {limit} CPU seconds"}] * (len(sizes) - len(found))
    return dict(zip(sizes, found, strict=True))


def checkout(commit: str, folder: Path) -> Path:
    """The package as it was at a commit, without its weights."""
    archive = subprocess.run(
        ["git", "-C", str(ROOT), "archive", commit, "--", "foveate", ":!foveate/assets"],
        capture_output=True,
        check=True,
    )
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive.stdout, check=True)
    return folder


def flops_per_second(dtype: torch.dtype, rounds: int = 5) -> float:
    """Of one large product on one thread, the best of all rounds."""
    a = torch.randn(2048, WIDTH).to(dtype)
    b = torch.randn(WIDTH, SHAPE.intermediate_size).to(dtype)
    seconds = []
    for _ in range(rounds):
        started = time.process_time()
        a @ b
        seconds.append(time.process_time() - started)
    return float(2 * a.shape[0] * b.numel() / min(seconds))


def exponent(cells: dict[int, dict[str, Any]]) -> float | None:
    """Slope of log time over log N from FITTED_FROM on; None where there is nothing to fit."""
    found = [(n, median(c["seconds"])) for n, c in cells.items() if "seconds" in c]
    points = [(n, s) for n, s in found if n >= FITTED_FROM]
    if len(points) < 3 or points[-1][1] < LEAST_SECONDS:
        return None
    n, s = np.log(np.array(points)).T
    return float(np.polyfit(n, s, 1)[0])


def beyond(row: dict[str, Any], num_tokens: int) -> list[str]:
    """What of a row misses its goal, in words."""
    cell = row["cells"][num_tokens]
    if "failed" in cell:
        return [f"{row['method']} at {num_tokens:,}: {cell['failed']}"]
    said = []
    if cell["bytes"] > MOST_BYTES:
        said.append(f"{cell['bytes'] / 1e9:.1f} GB")
    if cell["share"] > MOST_SHARE:
        said.append(f"{100 * cell['share']:.1f} % of the prefill")
    most = MOST_EXPONENT[row["method"] in COMPARE_PAIRS]
    if row["exponent"] is not None and row["exponent"] > most:
        said.append(f"exponent {row['exponent']:.2f}, above {most}")
    return [f"{row['method']} at {num_tokens:,}: {', '.join(said)}"] if said else []


def compared(
    method: str, num_tokens: int, now: dict[str, Any], then: dict[str, Any]
) -> dict[str, Any]:
    """Before against now, at one size."""
    row: dict[str, Any] = {"method": method, "num_tokens": num_tokens}
    for name, cell in (("before", then), ("now", now)):
        row[name] = {key: value for key, value in cell.items() if key != "kept"}
    if "failed" not in now and "failed" not in then:
        both = set(now["kept"]) & set(then["kept"])
        row["times_faster"] = median(then["seconds"]) / median(now["seconds"])
        row["same_kept"] = len(both) / len(then["kept"])
    return row


def tables(
    rows: Sequence[dict[str, Any]], before: Sequence[dict[str, Any]], sizes: Sequence[int]
) -> list[str]:
    heads = " | ".join(f"{size:,}" for size in sizes)
    lines: list[str] = []

    def table(what: str, key: str, form: str, scale: float, last: str = "") -> None:
        lines.extend(
            [
                f"{what}:",
                "",
                f"| method | {heads} |{f' {last} |' if last else ''}",
                f"|---|{'---:|' * (len(sizes) + bool(last))}",
            ]
        )
        for row in rows:
            cells = [
                "-" if "failed" in cell else format(scale * cell[key], form)
                for cell in row["cells"].values()
            ]
            if last:
                cells.append("-" if row["exponent"] is None else f"{row['exponent']:.2f}")
            lines.append(f"| {row['method']} | {' | '.join(cells)} |")
        lines.append("")

    table("CPU milliseconds", "median", ",.1f", 1e3, last="exponent")
    table("Peak memory above the states, MB", "bytes", ",.0f", 1e-6)
    table("Per cent of the float32 prefill", "share", ".3f", 100)
    table("Per cent of the bfloat16 prefill", "share_bfloat16", ".3f", 100)
    failed = [
        f"- {row['method']} at {size:,}: {cell['failed']}"
        for row in rows
        for size, cell in row["cells"].items()
        if "failed" in cell
    ]
    missed = [f"- {word}" for row in rows for word in beyond(row, sizes[-1])]
    lines += ["Did not run:", "", *failed, ""] if failed else []
    goal = (
        f"Above the goal at {sizes[-1]:,} tokens ({MOST_BYTES / 1e9:.0f} GB, "
        f"{100 * MOST_SHARE:.0f} % of the float32 prefill, exponent {MOST_EXPONENT[True]} where "
        f"all pairs are compared and {MOST_EXPONENT[False]} elsewhere)"
    )
    lines += [f"{goal}:", "", *missed] if missed else [f"{goal}: none."]
    if before:
        lines += ["", f"Against the forms before (commit {BEFORE}). {REDEFINED}:", ""]
        lines += [
            "| method | tokens | before, ms | now, ms | times faster | memory before, MB | now | "
            "same tokens kept |",
            "|---|---:|---:|---:|---:|---:|---:|---:|",
        ]
    for row in before:
        cells = [f"{row['num_tokens']:,}"]
        for form, key in ((",.0f", "seconds"), (",.0f", "bytes")):
            if key == "bytes":
                faster = row.get("times_faster")
                cells.append("-" if faster is None else f"{faster:.1f}")
            for name in ("before", "now"):
                cell = row[name]
                value = 1e3 * median(cell["seconds"]) if "seconds" in cell else 0.0
                value = cell.get("bytes", 0) / 1e6 if key == "bytes" else value
                cells.append(cell.get("failed") or format(value, form))
        same = row.get("same_kept")
        cells.append("-" if same is None else f"{100 * same:.1f} %")
        lines.append(f"| {row['method']} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", nargs="*", help="default: all")
    parser.add_argument("--sizes", nargs="*", type=int, default=list(SIZES))
    parser.add_argument("--limit", type=int, default=300, help="CPU seconds of a method")
    parser.add_argument("--no-before", action="store_true", help="only as it is now")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    names = arguments.methods or [n for n in foveate.METHODS if n not in NOT_MEASURED]
    sizes = sorted(arguments.sizes)
    rates = {dtype: flops_per_second(dtype) for dtype in (torch.float32, torch.bfloat16)}
    prefill = {n: prefill_cost(SHAPE, num_text=NUM_TEXT, num_visual=n).flops for n in sizes}
    rows, before = [], []
    with (
        tempfile.TemporaryDirectory() as folder,
        Progress(console=Console(stderr=True)) as progress,
    ):
        old = Path(folder) if arguments.no_before else checkout(BEFORE, Path(folder))
        task = progress.add_task("selection", total=len(names))
        for name in names:
            progress.update(task, description=name)
            cells = measure(name, sizes, ROOT, arguments.limit)
            n = SIZES_BEFORE.get(name)
            if n in cells and not arguments.no_before:
                then = measure(name, [n], old, arguments.limit)[n]
                before.append(compared(name, n, cells[n], then))
            for n, cell in cells.items():
                cell.pop("kept", None)
                if "seconds" in cell:
                    cell["median"] = median(cell["seconds"])
                    cell["share"] = cell["median"] * rates[torch.float32] / prefill[n]
                    cell["share_bfloat16"] = cell["median"] * rates[torch.bfloat16] / prefill[n]
            rows.append({"method": name, "exponent": exponent(cells), "cells": cells})
            progress.advance(task)
    rows.sort(key=lambda row: row["cells"][sizes[-1]].get("median", float("inf")))
    seconds = {
        n: [round(flops / rates[dtype], 1) for dtype in rates] for n, flops in prefill.items()
    }
    write_results(
        "selection-scale",
        f"What selection costs, from {sizes[0]:,} to {sizes[-1]:,} visual tokens",
        f"One image of width {WIDTH:,}, bfloat16, {100 * KEEP_RATIO:.0f} % kept, one thread, CPU "
        "time, merging included; all steps of methods that cut several times, the matching of all "
        f"layers of a tower that starts with N tokens for those that act inside it. The prefill is "
        f"of {LAYERS} layers of a 7B decoder on N + {NUM_TEXT} tokens by its FLOPs (attention in "
        f"full): the core does {rates[torch.float32] / 1e9:.0f} GFLOP/s in a large float32 product "
        f"and {rates[torch.bfloat16] / 1e9:.0f} in bfloat16, so it takes "
        + ", ".join(f"{a:,} / {b:,} s at {n:,}" for n, (a, b) in seconds.items())
        + ". Selection computes in float32. Exponents are fitted from "
        f"{FITTED_FROM:,} tokens on, where the last takes {1e3 * LEAST_SECONDS:.0f} ms.",
        tables(rows, before, sizes),
        {
            "rows": rows,
            "before": before,
            "flops_per_second": {str(dtype): rate for dtype, rate in rates.items()},
            "prefill_flops": prefill,
            "manifest": manifest(seed=0, sizes=sizes, keep_ratio=KEEP_RATIO, before=BEFORE),
        },
    )


if __name__ == "__main__":
    main()
