"""Put what was learnt from episodes into a Vist.

python -m training.episodes.export --run run/carved --run run/latents --out vist
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from foveate.assets import vist_path
from foveate.vist.checkpoint import save_checkpoint
from foveate.vist.config import CarvedConfig
from foveate.vist.parts import VistParts
from foveate.vist.run.vist import Vist
from foveate.vist.train.checkpoint import latest, load_weights, read_snapshot
from training.episodes.trainee import trainee_of

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and write the folder."""
    parser = argparse.ArgumentParser(prog="python -m training.episodes.export", description=__doc__)
    parser.add_argument("--vist", default=str(vist_path()), help="what the runs began from")
    parser.add_argument("--run", type=Path, action="append", required=True, help="FOLDER/FORM")
    parser.add_argument("--share", type=float, default=1 / 3, help="that carved was trained for")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    vist = Vist.from_pretrained(options.vist)
    about = vist.about
    assert about is not None
    config = vist.config
    learnt: dict[str, Tensor] = {}
    notes: dict[str, Any] = {}
    for folder in options.run:
        place = latest(folder)
        if place is None:
            raise SystemExit(f"{folder} holds no checkpoint; give FOLDER/FORM of a run.")
        snapshot = read_snapshot(place)
        settings = snapshot.state["settings"]
        trainee = trainee_of(vist, settings["form"], settings["cut"], settings["rank"])
        load_weights(trainee, snapshot.weights)
        learnt |= {name: value.clone() for name, value in trainee.exported().items()}
        if settings["form"] == "carved":
            carved = CarvedConfig(
                layer=settings["cut"], share=options.share, lora_rank=settings["rank"]
            )
            config = dataclasses.replace(config, carved=carved)
        notes[settings["form"]] = {
            **settings, "steps": snapshot.state["step"],
            "cpu_seconds": round(snapshot.state["cpu_seconds"]),
        }  # fmt: skip
    parts = VistParts(config, vist.parts.shape, vist.anatomy.layers)
    own = parts.state_dict()
    # The index has a file of its own beside these.
    before = {k: v for k, v in vist.parts.state_dict().items() if not k.startswith("index.")}
    missing = set(own) - set(before) - set(learnt)
    if missing or set(learnt) - set(own):
        raise SystemExit(f"the runs do not fit the Vist: {sorted(missing)[:3]}.")
    with torch.no_grad():
        for name, value in {**before, **learnt}.items():
            own[name].copy_(value)
    about = dataclasses.replace(
        about, config=config, training={**about.training, "episodes": json.loads(json.dumps(notes))}
    )
    save_checkpoint(options.out, parts, about, eight_bit=True)


if __name__ == "__main__":
    main()
