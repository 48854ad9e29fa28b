"""Train a CEPE by a Vist's recipe: same data, objectives, schedule and loop; text is not drawn."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from foveate.vist.cepe.cepe import Cepe
from foveate.vist.cepe.encoder import CepeConfig, CepeParts, ChunkEncoderConfig
from foveate.vist.config import ResamplerConfig
from foveate.vist.latents.targets import TargetConfig
from foveate.vist.train.checkpoint import load_weights, weight_tensors
from foveate.vist.train.loop import EXPORT, Trainer
from foveate.vist.train.recipe import Recipe

__all__ = ["CepeTrainer", "build_cepe", "cepe_recipe"]


def cepe_recipe(
    recipe: Recipe, encoder: ChunkEncoderConfig | None = None, *, resample: bool
) -> Recipe:
    """The recipe of a Vist for a CEPE: all else equal.

    A pointed resampler becomes a Perceiver of as many latents, because text has no pixels to be
    pointed at. The encoder, which CEPE trains, learns in every stage in which the resampler does.
    Nothing is cached: the frozen part is a look-up of embeddings.

    Args:
        recipe: of the Vist.
        encoder: shape of the text encoder; None is the default.
        resample: whether the resampler follows, so that both read equally many entries.
    """
    encoder = encoder if encoder is not None else ChunkEncoderConfig()
    wanted, width = recipe.vist.resampler, encoder.width
    targets = recipe.objectives.targets
    needs_targets = any(stage.needs("targets") for stage in recipe.stages)
    if not resample:
        resampler = ResamplerConfig(input_width=width, width=width, num_latents=encoder.chunk)
        targets = TargetConfig(choice="all", packed=0) if needs_targets else None
    elif isinstance(wanted, ResamplerConfig):
        resampler = dataclasses.replace(wanted, input_width=width)
    else:
        resampler = ResamplerConfig(
            input_width=width,
            width=wanted.width,
            num_latents=wanted.num_latents,
            local_bias="window",
        )
        choice: Any = wanted.choice
        targets = TargetConfig(choice=choice, run=wanted.run, packed=wanted.packed)
        targets = targets if needs_targets else None
    fusion = recipe.vist.fusion
    if not resample and fusion.form == "kv_prefix":
        fusion = dataclasses.replace(fusion, projection="linear")

    def renamed(names: Any) -> list[str]:
        """The parts that learn where the Vist's `resampler` did."""
        found = []
        for name in names:
            is_resampler = name.startswith("resampler")
            found += ["encoder"] if is_resampler else []
            # Its resampler is the plain one, which has no parts of that name.
            kept = "resampler" if is_resampler else name
            found += [kept] if resample or not is_resampler else []
        return list(dict.fromkeys(found))

    stages = tuple(
        dataclasses.replace(
            stage,
            trainable=tuple(renamed(stage.trainable)),
            lr_factors={
                part: factor
                for name, factor in stage.lr_factors.items()
                for part in renamed([name])
            },
        )
        for stage in recipe.stages
    )
    config = CepeConfig(
        encoder=encoder,
        resample=resample,
        resampler=resampler,
        fusion=fusion,
        max_pages=recipe.vist.max_pages,
    )
    return dataclasses.replace(
        recipe,
        name=f"{recipe.name}-cepe",
        vist=config,
        data=dataclasses.replace(recipe.data, cache=""),
        objectives=dataclasses.replace(recipe.objectives, targets=targets),
        stages=stages,
    )


def build_cepe(recipe: Recipe, model: Any, tokenizer: Any) -> Cepe:
    """New parts from the recipe's seed around a loaded language model.

    Args:
        recipe: from `cepe_recipe`.
        model, tokenizer: the language model, e.g. a Vist's own.
    """
    assert isinstance(recipe.vist, CepeConfig)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.run.seed)
        made = Cepe(model, tokenizer, recipe.vist)
    made.parts.float()
    return made


class CepeTrainer(Trainer):
    """The same trainer; windows are cut into chunks of tokens where they would be drawn.

    Args:
        recipe: from `cepe_recipe`.
        vist: the Cepe.
        others: as for Trainer.
    """

    def __init__(self, recipe: Recipe, vist: Cepe, *others: Any, **options: Any) -> None:
        super().__init__(recipe, vist, *others, **options)
        renderer: Any = vist.renderer
        self._make.renderer = renderer

    def _export(self) -> None:
        """Write the finished Cepe."""
        weights = weight_tensors(self.trainee)
        if not self.accelerator.is_main_process:
            return
        vist = self.vist
        assert isinstance(vist, Cepe)
        parts = CepeParts(vist.config, vist.parts.shape, vist.anatomy.layers)
        load_weights(parts.cpu(), {n[6:]: t for n, t in weights.items() if n.startswith("parts.")})
        Cepe(vist.model, vist.tokenizer, vist.config, parts).save_pretrained(
            self.folder / EXPORT,
            base=self.recipe.model.llm,
            training={
                "recipe": self.recipe.to_dict(),
                "steps": self.progress.step,
                "tokens": self.progress.tokens,
            },
        )
