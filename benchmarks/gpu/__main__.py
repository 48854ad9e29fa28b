"""`python -m benchmarks.gpu --out DIR` on a GPU; with --device cpu --tiny it tries the code.

DIR/gpu.json is written after every row. `python -m benchmarks.gpu.page DIR/gpu.json` makes
docs/results/gpu.md of it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from benchmarks.gpu.clock import Clock
from benchmarks.gpu.models import Shapes
from benchmarks.gpu.rows import Rows
from benchmarks.gpu.sections import SECTIONS, Setting, run_section
from foveate.measure.manifest import manifest


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for gpu.json")
    parser.add_argument("--budget", type=float, default=240, help="seconds; what is last is cut")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes, which measure nothing")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, help="sections; default: all")
    parser.add_argument("--new-tokens", type=int, default=64, help="that are generated")
    parser.add_argument("--rounds", type=int, default=7, help="of every prefill, interleaved")
    given = parser.parse_args(arguments)
    device = torch.device(given.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error(
            f"torch {torch.__version__} finds no GPU here; run it where there is one, or try the "
            "code with --device cpu --tiny."
        )
    if device.type != "cuda" and not given.tiny:
        parser.error(f"--device {device} takes hours at real shapes; add --tiny to try the code.")
    about = manifest(seed=0, device=device.type, tiny=given.tiny, budget=given.budget)
    rows = Rows(given.out, about, budget=given.budget)
    setting = Setting(
        rows=rows,
        clock=Clock(device),
        shapes=Shapes(tiny=given.tiny),
        new_tokens=given.new_tokens,
        rounds=given.rounds,
    )
    for name in given.only or SECTIONS:
        run_section(name, setting)
    print(rows.summary)
    return 1 if rows.has_errors else 0


if __name__ == "__main__":
    sys.exit(main())
