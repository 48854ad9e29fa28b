"""Published compression methods, one file each, and the registry that names them.

Adding a method: write `foveate/prune/<name>.py` with one Method subclass, then import it below;
that line is its registration (docs/add-a-method.md).
"""

from __future__ import annotations

from typing import Any

from foveate.errors import MethodError
from foveate.prune.average_pooling import AveragePooling as AveragePooling
from foveate.prune.cdpruner import CdPruner as CdPruner
from foveate.prune.dart import Dart as Dart
from foveate.prune.divprune import DivPrune as DivPrune
from foveate.prune.fastv import FastV as FastV
from foveate.prune.foveacarve import FoveaCarve as FoveaCarve
from foveate.prune.method import Method as Method
from foveate.prune.mmtok import MmTok as MmTok
from foveate.prune.noop import NoOp as NoOp
from foveate.prune.prune_and_merge import PruneAndMerge as PruneAndMerge
from foveate.prune.pyramiddrop import PyramidDrop as PyramidDrop
from foveate.prune.random_tokens import RandomTokens as RandomTokens
from foveate.prune.resize import ResizeFirst as ResizeFirst
from foveate.prune.sparsevlm import SparseVlm as SparseVlm
from foveate.prune.stack import Stack as Stack
from foveate.prune.tokencarve import TokenCarve as TokenCarve
from foveate.prune.tome import ToMe as ToMe
from foveate.prune.uniform import UniformGrid as UniformGrid
from foveate.prune.visionzip import VisionZip as VisionZip

METHODS: dict[str, type[Method]] = {
    cls.name: cls
    for cls in list(vars().values())
    if isinstance(cls, type) and issubclass(cls, Method) and cls is not Method
}


def method(name: str, **settings: Any) -> Method:
    """Build a registered method by name, e.g. method("fastv", keep_ratio=0.25).

    Raises:
        MethodError: for an unknown name or a setting the method does not have.
    """
    if name not in METHODS:
        raise MethodError(f"unknown method {name!r}; choose one of {', '.join(METHODS)}.")
    return METHODS[name].from_dict(settings)
