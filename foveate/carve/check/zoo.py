"""The zoo: every image-text-to-text type of the installed transformers, and what is known of it."""

from __future__ import annotations

import json

from transformers.models.auto import modeling_auto

from foveate.assets import zoo_path
from foveate.carve.check.check import check
from foveate.carve.check.result import Checked
from foveate.errors import FoveateError
from foveate.models.derive import title_of
from foveate.models.families import FAMILIES
from foveate.models.twin import typical_config


def zoo_types() -> list[str]:
    """Model types that the installed transformers maps to image-text-to-text models, sorted."""
    return sorted(modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)


def check_type(model_type: str, *, thorough: bool = True) -> Checked:
    """Check a type on the twin of its typical configuration; whatever breaks is a result.

    Args:
        model_type: one of `zoo_types()`.
        thorough: as for `check`.
    """
    try:
        return check(typical_config(model_type), thorough=thorough)
    except Exception as error:  # a type of tomorrow can fail anywhere inside transformers
        said = " ".join(str(error).split())[:200]
        if not isinstance(error, FoveateError):
            said = f"{type(error).__name__}: {said}"
        return _unknown(model_type, f"it could not be checked: {said}")


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
    return [known.get(kind) or _unknown(kind, untried) for kind in zoo_types()]


def _unknown(model_type: str, why: str) -> Checked:
    row = FAMILIES.get(model_type)
    title = row.title if row is not None else title_of(model_type)
    return Checked(model_type=model_type, title=title, transformers="", refusal=why)
