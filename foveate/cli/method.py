"""The --method and --keep options as a method with its budget, or --profile in their place."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from foveate.errors import InputError

if TYPE_CHECKING:
    from foveate.carve.method import Method
    from foveate.carve.profile import Profile
    from foveate.models.vlm import VisionLanguageModel


def build_method(name: str, keep: str, *, prune_layer: int | None = None) -> Method:
    """A method as `foveate.carve.spec.parse_method` reads it.

    Raises:
        MethodError, BudgetError: for what cannot be.
    """
    from foveate.carve.spec import parse_method
    from foveate.core.budget import parse_budget

    return parse_method(name, parse_budget(keep), prune_layer=prune_layer)


def profile_instead(context: typer.Context, path: Path | None, *options: str) -> Profile | None:
    """The profile of --profile, which no other option may say otherwise; None without one.

    Args:
        context: of the command.
        path: of the option.
        options: names of parameters that a profile stands in for.

    Raises:
        InputError: one of them was given too, or the profile cannot be used.
    """
    if path is None:
        return None
    for name in options:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            option = f"--{name.replace('_', '-')}"
            raise InputError(
                f"got --profile and {option}, and the profile says both method and budget; leave "
                "one of them out."
            )
    from foveate.carve.profile import load_profile

    return load_profile(path)


def check_profile(profile: Profile | None, vlm: VisionLanguageModel) -> None:
    """Raise InputError where a profile is of another model."""
    if profile is not None:
        profile.check_model(str(vlm.model.config.model_type), vlm.weights)
