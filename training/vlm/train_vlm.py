"""Command line of the training stages: ``python -m training.vlm.train_vlm --help``."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and run one stage."""
    parser = argparse.ArgumentParser(prog="python -m training.vlm.train_vlm", description=__doc__)
    parser.add_argument("stage", choices=("vision", "language", "joint", "export"))
    parser.add_argument("--folder", type=Path, required=True, help="checkpoints and logs")
    parser.add_argument("--minutes", type=float, default=60.0, help="wall-clock limit of this run")
    parser.add_argument("--out", type=Path, help="export: folder to write the model to")
    parser.add_argument(
        "--weights",
        choices=("current", "average"),
        default="current",
        help="export: the last weights or their running average",
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--set",
        nargs="*",
        default=[],
        metavar="NAME=NUMBER",
        help="any numeric argument of the stage's function",
    )
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    if options.stage == "export":
        from training.vlm.export import export, weights_of

        if options.out is None:
            parser.error("export needs --out; name the folder to write the model to")
        export(weights_of(options.folder, options.weights), options.out)
        return
    extra = {}
    for pair in options.set:
        name, _, number = pair.partition("=")
        extra[name] = float(number) if "." in number else int(number)
    stage: Callable[..., None]
    if options.stage == "vision":
        from training.vlm.train_vision import train_vision as stage
    elif options.stage == "language":
        from training.vlm.train_language import train_language as stage
    else:
        from training.vlm.train_joint import train_joint as stage
    stage(options.folder, minutes=options.minutes, **extra)


if __name__ == "__main__":
    main()
