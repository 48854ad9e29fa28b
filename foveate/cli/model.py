"""The --model option: the embedded model unless another is named."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from foveate.assets import EMBEDDED, vlm_path
from foveate.cli.console import err

if TYPE_CHECKING:
    from foveate.carve.method import Method
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


def check_fits_embedded(name: str | None, method: Method) -> None:
    """Refuse before it is loaded what the embedded model would refuse; of others nothing is known.

    Raises:
        MethodError: a layer that it has not.
        BudgetError: more tokens than its images have.
    """
    path = vlm_path() / "config.json"
    if name not in (None, EMBEDDED) or not path.exists():
        return
    config = json.loads(path.read_text(encoding="utf-8"))
    method.layers(config["text_config"]["num_hidden_layers"], 0)
    vision = config["vision_config"]
    if method.exact_budget:
        method.budget.most((vision["image_size"] // vision["patch_size"]) ** 2)
