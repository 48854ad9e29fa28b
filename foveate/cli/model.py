"""The --model option: the embedded model unless another is named."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from foveate.cli.console import err
from foveate.errors import InputError

if TYPE_CHECKING:
    from foveate.models.load import VisionLanguageModel

EMBEDDED = "embedded model"


def load_model(
    name: str | None, *, device: str = "auto", dtype: str = "auto"
) -> VisionLanguageModel:
    """Load a model with a spinner on stderr; `name` None is the embedded model."""
    with err.status("Loading the libraries"):
        from foveate.models.load import load_vlm, quiet_transformers

        quiet_transformers()
    if name is not None:
        with err.status(f"Loading {name}"):
            return load_vlm(name, device=device, dtype=dtype)
    # Its folder lies wherever foveate was installed, which would say nothing in a report.
    return replace(load_vlm(embedded_path(), device=device, dtype=dtype), name=EMBEDDED)


def embedded_path() -> str:
    """Folder of the embedded model."""
    try:
        from foveate.assets import vlm_path

        path = vlm_path()
    except (ImportError, OSError) as error:
        raise InputError(
            "this installation has no embedded model; name one with --model PATH_OR_ID."
        ) from error
    if not (path / "config.json").exists():
        raise InputError(
            "this installation has no embedded model; name one with --model PATH_OR_ID."
        )
    return str(path)
