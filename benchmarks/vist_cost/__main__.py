"""`python -m benchmarks.vist_cost`: FLOPs, memory and throughput against CEPE and raw text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.vist_cost.models import count_flops
from benchmarks.vist_cost.probe import ProbeArms
from benchmarks.vist_cost.table import CostSettings, evaluate_cost
from foveate.cli.eval_options import AsJson, Output, Seed, numbers, run_and_write, shares
from foveate.cli.eval_output import split_list
from foveate.models.load import quiet_transformers


def main(
    tokens: Annotated[str, typer.Option(help="Tokens of text.")] = "1024,2048,4096,8192,16384",
    tokens_per_image: Annotated[
        str, typer.Option(help="That one strip holds: the paper's, and ours.")
    ] = "146,187",
    arms: Annotated[
        str, typer.Option(help="raw, cepe, cepe-resampled, vist, vist-reader; default: all.")
    ] = "",
    count: Annotated[bool, typer.Option(help="Count FLOPs on the meta device too.")] = True,
    measure: Annotated[
        str, typer.Option(help="Tokens to really run at a reduced scale; '' runs nothing.")
    ] = "1024,4096",
    new_tokens: Annotated[int, typer.Option(help="Decoded in a real run.")] = 32,
    rounds: Annotated[int, typer.Option(help="Timing rounds of the real runs.")] = 3,
    output: Output = Path("out/eval"),
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """FLOPs, memory and throughput in the paper's shape, against CEPE and raw text."""
    quiet_transformers()
    settings = CostSettings(
        totals=numbers(tokens, "--tokens"),
        tokens_per_image=shares(tokens_per_image, "--tokens-per-image"),
        arms=split_list(arms),
        count=count,
        measured=numbers(measure, "--measure"),
        new_tokens=new_tokens,
        rounds=rounds,
    )
    probe = ProbeArms(seed) if settings.measured else None
    run_and_write(
        lambda progress: evaluate_cost(
            settings, count=count_flops, probe=probe, seed=seed, progress=progress
        ),
        output,
        as_json,
    )


if __name__ == "__main__":
    typer.run(main)
