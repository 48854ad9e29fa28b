"""Checking a type of which there is no model: the twin of its typical configuration."""

from __future__ import annotations

from foveate.carve.check.check import check
from foveate.carve.check.known import unknown
from foveate.carve.check.result import Checked
from foveate.errors import FoveateError
from foveate.models.twin import typical_config


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
        return unknown(model_type, f"it could not be checked: {said}")
