"""From a recipe to what the trainer takes: frozen models, fresh parts, documents."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from foveate.errors import InputError
from foveate.vist.checkpoint import read_about, read_weights
from foveate.vist.config import GlanceConfig
from foveate.vist.encoder.text_encoder import TextEncoder, TextEncoderConfig, load_text_encoder
from foveate.vist.run.vist import Vist
from foveate.vist.train.data import DocumentSource, FileSource, HubSource
from foveate.vist.train.optim import matching
from foveate.vist.train.recipe import Recipe
from foveate.vist.train.tiny_models import (
    TINY_WIDTH,
    tiny_language_model,
    tiny_tokenizer,
    tiny_vision_encoder,
)

__all__ = [
    "MadeUpText",
    "build_source",
    "build_vist",
    "take_over",
    "tiny_recipe",
    "tiny_vist",
]


def build_source(recipe: Recipe) -> DocumentSource:
    """The recipe's documents."""
    data = recipe.data
    if data.hub:
        return HubSource(
            data.hub,
            config=data.hub_config,
            split=data.split,
            text=data.text,
            revision=data.revision,
        )
    return FileSource(data.files, text=data.text)


def build_vist(recipe: Recipe, *, device: str | torch.device = "cpu") -> Vist:
    """Load the frozen models and make new parts from the recipe's seed.

    Raises:
        InputError: a model cannot be loaded.
    """
    from foveate.assets import text_encoder_path
    from foveate.vist.checkpoint import Reference
    from foveate.vist.encoder.vision_encoder import load_vision_encoder
    from foveate.vist.run.load import load_base

    model = recipe.model
    dtype = getattr(torch, model.dtype)
    llm, tokenizer = load_base(Reference(name=model.llm, sha256=""), None, None, device)
    encoder: Any
    if model.encoder == "embedded" or (
        (Path(model.encoder) / "model.safetensors").exists() and (model.encoder_type == "text")
    ):
        folder = text_encoder_path() if model.encoder == "embedded" else Path(model.encoder)
        encoder = load_text_encoder(folder)
    else:
        encoder = load_vision_encoder(model.encoder, dtype=dtype)
    vist = _assembled(recipe, llm.to(dtype), tokenizer, encoder.to(device))
    for trained, starts in model.init.items():
        take_over(vist.parts, trained, starts)
    return vist


def take_over(parts: nn.Module, folder: str | Path, starts: Sequence[str] = ()) -> list[str]:
    """Copy the trained parts of another Vist where names and shapes are the same.

    Args:
        parts: that take over.
        folder: of the other Vist.
        starts: of the names that are copied; () is all.

    Returns:
        the names that were copied.

    Raises:
        InputError: the folder holds no Vist, or none of its parts fits.
    """
    read_about(folder)  # of any format: weights go by name and shape
    stored = read_weights(folder)
    own = parts.state_dict()
    fits = [
        name
        for name, value in stored.items()
        if name in own
        and own[name].shape == value.shape
        and (not starts or any(matching([name], start) for start in starts))
    ]
    if not fits:
        raise InputError(
            f"none of the {len(stored)} trained parts in {str(folder)!r} fits this recipe's; "
            "leave out model.init, or name a Vist with a part of the same shape."
        )
    with torch.no_grad():
        for name in fits:
            own[name].copy_(stored[name])
    return fits


def _assembled(recipe: Recipe, llm: Any, tokenizer: Any, encoder: Any) -> Vist:
    shape = dataclasses.replace(recipe.vist.resampler, input_width=encoder.width)
    config = dataclasses.replace(recipe.vist, resampler=shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.run.seed)
        vist = Vist(llm, tokenizer, encoder, config)
    # The optimiser needs full precision, whatever the language model has.
    vist.parts.float()
    return vist


# --- the same on tiny random models ---


class MadeUpText:
    """Documents of made-up words: nothing to read, nothing to download.

    Args:
        count: documents.
        words: of each.
    """

    def __init__(self, count: int = 64, words: int = 600) -> None:
        self.count, self.words = count, words

    def read(self, first: int, step: int) -> Iterator[tuple[int, str]]:
        """See DocumentSource."""
        for place in range(first, self.count, step):
            yield place, self.document(place)

    def identity(self) -> dict[str, Any]:
        """What it is made from."""
        return {"made_up": [self.count, self.words]}

    def document(self, place: int) -> str:
        """One document; a few of its words come back again and again."""
        lot = random.Random(f"made-up text {place}")
        common = [_word(lot) for _ in range(20)]
        words = [
            lot.choice(common) if lot.random() < 0.7 else _word(lot) for _ in range(self.words)
        ]
        text = ""
        for word in words:
            text += word + lot.choice([" ", " ", " ", " ", ", ", ". ", "\n"])
        return text


def _word(lot: random.Random) -> str:
    return "".join(
        lot.choice("bdfgklmnprstv") + lot.choice("aeiou") for _ in range(lot.randint(1, 3))
    )


def tiny_recipe(recipe: Recipe, *, steps: int = 2) -> Recipe:
    """The recipe with small sizes and `steps` steps a stage: the same code on tiny models."""
    resampler = recipe.vist.resampler
    if isinstance(resampler, GlanceConfig):
        choice = "runs" if resampler.choice == "rare" else resampler.choice
        resampler = dataclasses.replace(
            resampler, width=TINY_WIDTH, inner=24, heads=2, pack_width=16, choice=choice
        )
    else:
        resampler = dataclasses.replace(
            resampler, width=TINY_WIDTH, layers=1, heads=2, head_dim=12, ff_mult=2
        )
    fusion = recipe.vist.fusion
    fusion = dataclasses.replace(
        fusion,
        layers=None if fusion.layers is None else (0,),
        lora_rank=min(fusion.lora_rank, 2),
    )
    targets = recipe.objectives.targets
    if targets is not None and targets.choice == "rare":
        targets = dataclasses.replace(targets, choice="runs")
    return dataclasses.replace(
        recipe,
        vist=dataclasses.replace(recipe.vist, resampler=resampler, fusion=fusion),
        data=dataclasses.replace(
            recipe.data,
            files=("made-up text",),
            hub="",
            context=min(recipe.data.context, 320),
            tail=min(recipe.data.tail, 32),
            shuffle=4,
            cache="",
        ),
        objectives=dataclasses.replace(recipe.objectives, targets=targets, counts=""),
        stages=tuple(
            dataclasses.replace(stage, steps=steps, score_last=min(stage.score_last, 32))
            for stage in recipe.stages
        ),
        run=dataclasses.replace(
            recipe.run,
            batch=4,
            micro_batch=2,
            mixed_precision="no" if not torch.cuda.is_available() else recipe.run.mixed_precision,
            tensorboard=False,
        ),
        model=dataclasses.replace(recipe.model, dtype="float32"),
    )


def tiny_vist(recipe: Recipe, source: MadeUpText) -> Vist:
    """Tiny random models of the recipe's classes.

    Raises:
        ConfigError: a class has no tiny form.
    """
    llm = tiny_language_model(recipe.model.llm_type, seed=recipe.run.seed)
    tokenizer = tiny_tokenizer(source.document(place) for place in range(8))
    if recipe.model.encoder_type == "text":
        shape = TextEncoderConfig(
            width=24, layers=1, heads=3, stem_width=8, slot_width=8, token_width=8, tokens=0
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.run.seed)
            encoder: Any = TextEncoder(shape)
    else:
        encoder = tiny_vision_encoder(recipe.model.encoder_type, seed=recipe.run.seed)
    return _assembled(recipe, llm, tokenizer, encoder)
