"""Recipes: everything a training run depends on, as one TOML file."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from foveate.errors import ConfigError, InputError
from foveate.files import is_file, open_regular
from foveate.vist.config import GlanceConfig, VistConfig
from foveate.vist.train.checked import checked
from foveate.vist.train.optim import OptimConfig
from foveate.vist.train.recipe_tables import (
    DataConfig,
    ModelConfig,
    ObjectivesConfig,
    RunConfig,
    StageConfig,
)

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["Recipe", "find_recipe", "load_recipe", "recipe_names"]

MOST_BYTES = 1 << 20  # of a recipe
MOST_DEEP = 16  # parts of a dotted key
FOLDER = Path(__file__).parent / "recipes"


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
        # It becomes a folder's name.
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", self.name):
            raise ConfigError(
                f"the recipe's name {self.name[:100]!r} is no plain name; use letters, digits, "
                "'-', '_' and '.', beginning with a letter or digit."
            )
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
        tables = whole.get("vist")
        resampler = tables.get("resampler") if isinstance(tables, Mapping) else None
        if isinstance(resampler, Mapping):
            # Known only once the encoder is loaded.
            whole["vist"]["resampler"] = {"input_width": 1, **resampler}
        return checked(cls, whole)


def recipe_names() -> list[str]:
    """Recipes that foveate ships."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def find_recipe(name: str | Path) -> Path:
    """A shipped recipe by name, or a file by path. Raises InputError if there is neither."""
    path = Path(name)
    shipped = FOLDER / f"{path.name}.toml"
    if path.suffix != ".toml" and is_file(shipped) and path.name == str(name):
        return shipped
    if not is_file(path):
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
        _apply(setting, values)
    return Recipe.from_dict(values)


def _values(path: Path) -> dict[str, Any]:
    """A recipe file laid over the one that it names as its base."""
    try:
        values = _toml(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not a TOML file that can be read: {error}.") from error
    base = values.pop("base", None)
    if base is None:
        return values
    under = find_recipe(path.parent / base if is_file(path.parent / str(base)) else str(base))
    if "base" in _toml(under):
        raise ConfigError(f"{path} has the base {base}, which has a base itself; name that one.")
    return _laid_over(_values(under), values)


def _toml(path: Path) -> dict[str, Any]:
    """Raises InputError where it is no regular file, OSError and ValueError."""
    with open_regular(path) as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise ValueError(f"it has more than {MOST_BYTES:,} bytes")
    try:
        return tomllib.loads(data.decode("utf-8"))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _laid_over(under: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`under` with the fields of `over`, table by table; lists are replaced whole."""
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(under.get(key), Mapping)
        under[key] = _laid_over(under[key], value) if both else value
    return under


def _apply(setting: str, values: dict[str, Any]) -> None:
    """Put the value of "key=value" in its place."""
    key, equals, written = setting.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set got {setting!r}; write key=value, e.g. run.batch=4.")
    value: Any = written
    with contextlib.suppress(ValueError, RecursionError):
        value = tomllib.loads(f"value = {written}")["value"]
    *parents, last = key.strip().split(".")
    if len(parents) >= MOST_DEEP:
        raise ConfigError(
            f"--set got a key of {len(parents) + 1:,} parts, and no field of a recipe lies deeper "
            f"than {MOST_DEEP}."
        )
    here: Any = values
    for part in parents:
        place = _place(part, here, setting)
        if isinstance(here, dict):
            here.setdefault(part, {})
        here = here[place]
    here[_place(last, here, setting)] = value


def _place(part: str, here: Any, setting: str) -> int | str:
    """One part of a dotted key as the key of a table or the index of a list."""
    if isinstance(here, dict):
        return part
    if not isinstance(here, list):
        raise ConfigError(f"--set {setting}: {part!r} lies below a value, not a table.")
    if not (part.isascii() and part.isdigit()) or int(part) >= len(here):
        raise ConfigError(
            f"--set {setting}: {part!r} is no place in a list of {len(here)}; count from 0."
        )
    return int(part)
