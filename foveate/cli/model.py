"""The --model option: the embedded model unless another is named."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foveate.assets import EMBEDDED
from foveate.cli.console import err

if TYPE_CHECKING:
    from foveate.models.vlm import VisionLanguageModel


def load_model(
    name: str | None, *, device: str = "auto", dtype: str = "auto"
) -> VisionLanguageModel:
    """Load a model with a spinner on stderr; `name` None is the embedded model."""
    with err.status("Loading the libraries"):
        from foveate.models.load import load_vlm, quiet_transformers

        quiet_transformers()
    with err.status(f"Loading {name or 'the embedded model'}"):
        return load_vlm(EMBEDDED if name is None else name, device=device, dtype=dtype)
