"""Score a form on episodes that were not trained on, before and after training.

    python -m training.episodes.score --data held-out.jsonl --form carved --run run/carved

Prints one line of JSON: means over episodes of the losses of `training.episodes.trainee`, and the
kinds of episodes apart.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch

from foveate.assets import vist_path
from foveate.vist.run.vist import Vist
from foveate.vist.train.checkpoint import latest, load_weights, read_snapshot
from training.episodes.batches import EpisodeBatches
from training.episodes.draw import read_episodes
from training.episodes.trainee import TRAINEES, EpisodeTrainee, trainee_of

__all__ = ["main", "scores"]


@torch.no_grad()
def scores(
    trainee: EpisodeTrainee, batches: EpisodeBatches, count: int
) -> dict[str, dict[str, float]]:
    """Kind of episodes -> losses by name, means; "all" are all of them.

    Args:
        trainee: of a form.
        batches: of one episode each.
        count: how many.
    """
    found: dict[str, list[dict[str, float]]] = defaultdict(list)
    for number in range(count):
        losses = {name: value.item() for name, value in trainee(batches[number]).items()}
        for kind in ("all", batches.episode(number).kind):
            found[kind].append(losses)
    return {
        kind: {name: round(sum(row[name] for row in rows) / len(rows), 4) for name in rows[0]}
        | {"episodes": len(rows)}
        for kind, rows in sorted(found.items())
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and print the scores."""
    parser = argparse.ArgumentParser(prog="python -m training.episodes.score", description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--vist", default=str(vist_path()))
    parser.add_argument("--form", choices=TRAINEES, default="carved")
    parser.add_argument("--run", type=Path, default=None, help="FOLDER/FORM; none: untrained")
    parser.add_argument("--cut", type=int, default=15)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--share", type=float, default=1 / 3)
    parser.add_argument("--choice", default="ends")
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    vist = Vist.from_pretrained(options.vist)
    vist.model.to(torch.bfloat16)
    trainee = trainee_of(vist, options.form, options.cut, options.rank)
    step = 0
    if options.run is not None:
        place = latest(options.run)
        if place is None:
            raise SystemExit(f"{options.run} holds no checkpoint; give FOLDER/FORM of a run.")
        snapshot = read_snapshot(place)
        load_weights(trainee, snapshot.weights)
        step = snapshot.state["step"]
    batches = EpisodeBatches(
        read_episodes(options.data),
        vist.tokenizer,
        size=1,
        share=options.share,
        choice=options.choice,
        vist=vist if options.form == "latents" else None,
    )
    found = scores(trainee, batches, options.count)
    print(json.dumps({"form": options.form, "step": step, **found}))


if __name__ == "__main__":
    main()
