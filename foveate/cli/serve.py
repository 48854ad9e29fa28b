"""`foveate serve`: vLLM's OpenAI-compatible server, with compressed images."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from foveate.assets import model_folder
from foveate.cli.console import err
from foveate.cli.options import Profile


def serve(
    context: typer.Context,
    model: Annotated[
        str, typer.Argument(help="Local folder or hub id; 'embedded' for the embedded model.")
    ],
    keep: Annotated[
        str | None,
        typer.Option(
            "--keep", help="Visual tokens to keep of each image: 64, 25% or 0.25; 25% unless said."
        ),
    ] = None,
    ages: Annotated[
        str | None,
        typer.Option(
            help="In place of --keep: shares that images keep by their age in a conversation, "
            "newest first: 100%,25%,10%."
        ),
    ] = None,
    age_step: Annotated[int, typer.Option(help="Images that age together.", min=1)] = 1,
    method: Annotated[
        str, typer.Option(help="One that needs no text, settings in brackets; see docs/serving.md.")
    ] = "tokencarve",
    profile: Profile = None,
) -> None:
    """Serve a model with vLLM, its images compressed. All other options go to `vllm serve`.

    Listens on loopback only unless --host says otherwise. /metrics has foveate_images_total,
    foveate_visual_tokens_total and foveate_kept_tokens_total.
    """
    from foveate.cli.method import profile_instead
    from foveate.core.budget import Budget, parse_budget
    from foveate.errors import BudgetError
    from foveate.vllm.budgets import parse_ages
    from foveate.vllm.command import check_installed, serve_command
    from foveate.vllm.expectation import expected_saving
    from foveate.vllm.settings import method_of, profile_settings, to_settings

    model = model_folder(model)
    tuned = profile_instead(context, profile, "method", "keep", "ages", "age_step")
    if keep is not None and ages is not None:
        raise BudgetError(
            f"--keep {keep} and --ages {ages} are given; give one: the first of the ages is what "
            "new images keep."
        )
    by_age = None if ages is None else parse_ages(ages, age_step)
    newest = None if by_age is None else Budget(keep_ratio=by_age.shares[0])
    budget = newest or parse_budget(keep or "25%")
    command = serve_command(model, tuned.method if tuned else method, budget, context.args, by_age)
    check_installed(os.environ)
    if tuned is not None:
        from foveate.models.load import load_config, weights_of_files

        found = load_config(model)
        tuned.check_model(str(found.model_type), weights_of_files(model, found))
    config = _config(model)
    chosen = method_of(profile_settings(tuned.method) if tuned else to_settings(method, budget))
    if config is not None and chosen is not None:
        err.print(f"foveate: {expected_saving(config, chosen)}", soft_wrap=True, markup=False)
    # vLLM takes this process over, so that signals and the exit code are its own.
    os.execv(sys.executable, [sys.executable, *command])


def _config(model: str) -> dict[str, Any] | None:
    """The model's config.json; None where only vLLM can find it."""
    path = Path(model) / "config.json"
    if not path.exists():
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import (
            HfHubHTTPError,
            HFValidationError,
            LocalEntryNotFoundError,
        )

        try:
            path = Path(hf_hub_download(model, "config.json"))
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError):
            return None  # vLLM says what is wrong
    config: dict[str, Any] = json.loads(path.read_text())
    return config
