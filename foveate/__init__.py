"""foveate: vision-language models that look closely where it matters and glance elsewhere."""

from foveate.core.budget import Budget
from foveate.core.plan import KeepPlan
from foveate.core.report import ImageReport, Report
from foveate.errors import FoveateError
from foveate.hf.attach import Run, attach
from foveate.prune import (
    METHODS,
    AveragePooling,
    DivPrune,
    FastV,
    Method,
    NoOp,
    RandomTokens,
    TokenCarve,
    UniformGrid,
    method,
)
from foveate.version import __version__

__all__ = [
    "METHODS",
    "AveragePooling",
    "Budget",
    "DivPrune",
    "FastV",
    "FoveateError",
    "ImageReport",
    "KeepPlan",
    "Method",
    "NoOp",
    "RandomTokens",
    "Report",
    "Run",
    "TokenCarve",
    "UniformGrid",
    "__version__",
    "attach",
    "method",
]
