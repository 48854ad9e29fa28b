"""A tiny training run that takes part of a second a step."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from accelerate.state import AcceleratorState, GradientState

from foveate.vist.config import ResamplerConfig
from foveate.vist.latents.targets import TargetConfig
from foveate.vist.train.build import MadeUpText, tiny_recipe, tiny_vist
from foveate.vist.train.loop import Trainer, make_accelerator
from foveate.vist.train.recipe import Recipe, load_recipe


def recipe(name: str = "vist-smollm2-cpu", steps: int = 2, **run: Any) -> Recipe:
    made = tiny_recipe(load_recipe(name), steps=steps)
    data = dataclasses.replace(made.data, context=160, tail=16)
    run = {"batch": 2, "micro_batch": 2, "plot_every": 100, "save_every": 100, **run}
    return dataclasses.replace(made, data=data, run=dataclasses.replace(made.run, **run))


def perceiver(wanted: Recipe) -> Recipe:
    """The same with the paper's resampler, its latents matched to runs of tokens, and read."""
    resampler = ResamplerConfig(
        input_width=1, width=24, num_latents=16, layers=1, heads=2, head_dim=12, ff_mult=2,
        local_bias="window",
    )  # fmt: skip
    fusion = dataclasses.replace(wanted.vist.fusion, projection="linear")
    stages = tuple(
        dataclasses.replace(
            stage,
            trainable=tuple(dict.fromkeys(p.split(".")[0] for p in stage.trainable)),
        )
        for stage in wanted.stages
    )
    read = dataclasses.replace(
        stages[0], name="read", objectives={"read": 1.0}, trainable=("resampler",)
    )
    return dataclasses.replace(
        wanted,
        stages=(read, *stages),
        vist=dataclasses.replace(wanted.vist, resampler=resampler, fusion=fusion),
        objectives=dataclasses.replace(wanted.objectives, targets=TargetConfig(run=4, packed=2)),
    )


def accelerator_for(wanted: Recipe) -> Any:
    """A new one: accelerate keeps its state in singletons."""
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    return make_accelerator(wanted, cpu=True)


def trainer(wanted: Recipe, folder: Path) -> Trainer:
    source = MadeUpText(count=16, words=300)
    return Trainer(
        wanted,
        tiny_vist(wanted, source),
        source,
        folder,
        accelerator=accelerator_for(wanted),
    )
