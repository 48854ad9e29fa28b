"""foveate: vision-language models that look closely where it matters and glance elsewhere."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from foveate.errors import FoveateError as FoveateError
from foveate.version import __version__ as __version__

if TYPE_CHECKING:
    from foveate.carve.attach import attach as attach
    from foveate.carve.engine.run import Run as Run
    from foveate.carve.method import METHODS as METHODS
    from foveate.carve.method import Method as Method
    from foveate.carve.methods import *  # noqa: F403
    from foveate.carve.pages.reader import PageReader as PageReader
    from foveate.carve.profile import Profile as Profile
    from foveate.carve.profile import load_profile as load_profile
    from foveate.carve.registry import method as method
    from foveate.carve.stack import Stack as Stack
    from foveate.carve.text_share import TextShare as TextShare
    from foveate.carve.two_stage import TwoStage as TwoStage
    from foveate.core.budget import Budget as Budget
    from foveate.core.plan import KeepPlan as KeepPlan
    from foveate.core.report import ImageReport as ImageReport
    from foveate.core.report import Report as Report
    from foveate.models.load import load_vlm as load_vlm
    from foveate.models.vlm import VisionLanguageModel as VisionLanguageModel
    from foveate.tasks.reading import example_page as example_page
    from foveate.vist.run.vist import Vist as Vist

# Loaded on first use, so that `foveate --help` does not wait for torch and transformers.
_HOMES = {
    "Budget": "foveate.core.budget",
    "KeepPlan": "foveate.core.plan",
    "ImageReport": "foveate.core.report",
    "Report": "foveate.core.report",
    "METHODS": "foveate.carve.method",
    "Method": "foveate.carve.method",
    "Profile": "foveate.carve.profile",
    "load_profile": "foveate.carve.profile",
    "method": "foveate.carve.registry",
    "Stack": "foveate.carve.stack",
    "TwoStage": "foveate.carve.two_stage",
    "TextShare": "foveate.carve.text_share",
    "Run": "foveate.carve.engine.run",
    "attach": "foveate.carve.attach",
    "PageReader": "foveate.carve.pages.reader",
    "VisionLanguageModel": "foveate.models.vlm",
    "example_page": "foveate.tasks.reading",
    "load_vlm": "foveate.models.load",
    "Vist": "foveate.vist.run.vist",
}


def __getattr__(name: str) -> Any:
    """Everything else public is a built-in method: foveate.TokenCarve."""
    if name.startswith("_"):
        raise AttributeError(f"module 'foveate' has no attribute {name!r}")
    home = importlib.import_module(_HOMES.get(name, "foveate.carve.methods"))
    try:
        value = getattr(home, name)
    except AttributeError:
        raise AttributeError(f"module 'foveate' has no attribute {name!r}") from None
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    home = importlib.import_module("foveate.carve.methods")
    names = [name for name, value in vars(home).items() if isinstance(value, type)]
    return sorted([*_HOMES, *names, "FoveateError", "__version__"])
