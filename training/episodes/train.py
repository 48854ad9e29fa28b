"""Train a memory on episodes: `python -m training.episodes.train --data episodes.jsonl`.

    python -m training.episodes.train --data episodes.jsonl --folder run --minutes 75

A run is resumed by the same command. On CPU cores an episode is a micro-batch, without padding; on
an accelerator (`--device cuda`) `--micro 32 --static --workers 8` make one shape of large ones, in
processes of their own, and the optimiser's step is fused.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from foveate.assets import vist_path
from foveate.vist.run.vist import Vist
from training.episodes.batches import EpisodeBatch, EpisodeBatches
from training.episodes.draw import read_episodes
from training.episodes.trainee import TRAINEES, trainee_of
from training.run import Run

__all__ = ["main"]

WARM_UP, FLOOR = 20, 0.05


class _From(torch.utils.data.Sampler[int]):
    """Numbers of the batches from one on."""

    def __init__(self, first: int) -> None:
        self.first = first

    def __iter__(self) -> Iterator[int]:
        return itertools.count(self.first)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(prog="python -m training.episodes.train", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="of training.episodes.draw")
    parser.add_argument("--vist", default=str(vist_path()), help="whose models and parts")
    parser.add_argument("--form", choices=TRAINEES, default="carved")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=75.0)
    parser.add_argument("--steps", type=int, default=0, help="as many, however long; 0: no limit")
    parser.add_argument("--batch", type=int, default=2, help="episodes of a step")
    parser.add_argument("--micro", type=int, default=1, help="episodes at a time")
    parser.add_argument("--static", action="store_true", help="pad all batches to one shape")
    parser.add_argument("--workers", type=int, default=0, help="processes that load")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--cut", type=int, default=15, help="first layer without all tokens")
    parser.add_argument("--share", type=float, default=1 / 3, help="of the tokens, above the cut")
    parser.add_argument("--choice", default="mixed", help="which tokens: ends, even, random, mixed")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--lr", type=float, default=5e-4, help="at its peak")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--save-every", type=float, default=120.0, help="seconds")
    parser.add_argument("--keep-last", type=int, default=1, help="checkpoints; a curve needs many")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if options.batch % options.micro:
        raise SystemExit(f"--batch {options.batch} is no multiple of --micro {options.micro}.")
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)

    vist = Vist.from_pretrained(options.vist, device=options.device)
    vist.model.to(torch.bfloat16)  # frozen; what learns stays in float32
    trainee = trainee_of(vist, options.form, options.cut, options.rank).to(options.device)
    run = Run(
        options.folder,
        options.form,
        trainee,
        trainee,
        muon_lr=options.lr,
        adam_lr=options.lr,
        kind="adamw",
        state={"settings": {"form": options.form, "cut": options.cut, "rank": options.rank}},
        minutes=options.minutes,
        max_steps=options.steps,
        save_every=options.save_every,
        keep_last=options.keep_last,
        cpu=options.device == "cpu",
    )
    micros = options.batch // options.micro
    batches = EpisodeBatches(
        read_episodes(options.data),
        vist.tokenizer,
        size=options.micro,
        share=options.share,
        is_static=options.static,
        choice=options.choice,
        vist=vist if options.form == "latents" else None,
        seed=options.seed * run.accelerator.num_processes + run.accelerator.process_index,
    )
    loader = iter(
        DataLoader(
            batches,
            batch_size=None,
            sampler=_From(run.step * micros),
            num_workers=options.workers,
            pin_memory=options.device != "cpu",
        )
    )
    while run.goes_on():
        _step(run, [next(loader) for _ in range(micros)], options.minutes)
        if run.step % 10 == 0:
            run.log()
        run.keep()
    run.log()
    run.close()


def _step(run: Run, parts: Sequence[EpisodeBatch], minutes: float) -> None:
    for number, part in enumerate(parts):
        losses = run.model(part.to(run.accelerator.device))
        loss = losses["total"] / len(parts)
        # Read back together: an accelerator is waited for once.
        values = torch.stack([value.detach() for value in losses.values()]).tolist()
        for name, value in zip(losses, values, strict=True):
            run.note(name, value, rate=0.02)
        if number + 1 < len(parts):
            run.gather(loss)
        else:
            run.learn(loss, run.scale(WARM_UP, minutes, FLOOR))


if __name__ == "__main__":
    main()
