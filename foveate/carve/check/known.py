"""Every image-text-to-text type of the installed transformers, and what the shipped results say."""

from __future__ import annotations

import json

from transformers.models.auto import modeling_auto

from foveate.assets import zoo_path
from foveate.carve.check.result import Checked
from foveate.models.derive import title_of
from foveate.models.families import FAMILIES


def zoo_types() -> list[str]:
    """Model types that the installed transformers maps to image-text-to-text models, sorted."""
    return sorted(modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)


def known_results() -> dict[str, Checked]:
    """Type -> what the shipped results say, made by `python -m benchmarks.zoo`; {} without them."""
    try:
        rows = json.loads(zoo_path().read_text(encoding="utf-8"))["rows"]
    except OSError:
        return {}
    return {row["model_type"]: Checked.from_dict(row) for row in rows}


def listed() -> list[Checked]:
    """Every type of the installed transformers with what is known of it; nothing is tried."""
    known = known_results()
    untried = "not tried in this version; `foveate check` tries it"
    return [known.get(kind) or unknown(kind, untried) for kind in zoo_types()]


def unknown(model_type: str, why: str) -> Checked:
    """A type of which nothing was found, and why."""
    row = FAMILIES.get(model_type)
    title = row.title if row is not None else title_of(model_type)
    return Checked(model_type=model_type, title=title, transformers="", refusal=why)
