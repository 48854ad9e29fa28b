"""Which settings of a run last from its start to its end, and where two runs differ in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foveate.vist.train.recipe import Recipe

__all__ = ["differences", "lasting_settings"]


def lasting_settings(recipe: Recipe) -> dict[str, Any]:
    """A recipe as nested dicts without paths and what else a continued run may change."""
    settings = recipe.to_dict()
    # How the batch is split over processes may change, the number of streams may not.
    for name in ("micro_batch", "save_every", "keep_last", "plot_every", "tensorboard"):
        del settings["run"][name]
    for name in ("files", "hub", "cache"):
        del settings["data"][name]
    del settings["objectives"]["counts"]
    del settings["model"]["init"]  # only the first step reads it
    return settings


def differences(old: Any, new: Any, where: str = "") -> list[str]:
    """Where two nested settings differ, one sentence each; only keys of `new` count."""
    if isinstance(new, Mapping) and isinstance(old, Mapping):
        return [
            text
            for key in new
            for text in differences(old.get(key), new[key], f"{where}.{key}".lstrip("."))
        ]
    if isinstance(new, list | tuple) and isinstance(old, list | tuple) and len(old) == len(new):
        return [
            text
            for i, (a, b) in enumerate(zip(old, new, strict=True))
            for text in differences(a, b, f"{where}.{i}")
        ]
    return [] if old == new else [f"{where} was {old!r}, is {new!r}"]
